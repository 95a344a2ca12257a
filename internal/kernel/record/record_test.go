package record

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, path string) (*File, *strings.Builder) {
	t.Helper()
	said := &strings.Builder{}
	return Open(path, slog.New(slog.NewTextHandler(said, nil))), said
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What was there first stays recorded, whatever the agent and its successors
// make of it.
func TestTheFirstStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "before.json")
	f, _ := open(t, path)
	f.Note(map[string]Entry{"sysctl a": {Before: "0", Set: "1"}})
	f.Note(map[string]Entry{"sysctl b": {Before: "x", Set: "y"}})
	next, _ := open(t, path)
	next.Note(map[string]Entry{"sysctl a": {Before: "1", Set: "2"}})
	want := `{
  "sysctl a": {
    "before": "0",
    "set": "2"
  },
  "sysctl b": {
    "before": "x",
    "set": "y"
  }
}
`
	if diff := cmp.Diff(want, text(t, path)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// An agent that starts again takes back that something is being undone.
func TestUndo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "before.json")
	f, _ := open(t, path)
	f.Note(map[string]Entry{"a": {Before: "0", Set: "1"}, "b": {Before: "0", Set: "1"}})
	if err := f.Undo("a", "b", "unknown"); err != nil {
		t.Fatal(err)
	}
	f.Note(map[string]Entry{"a": {Before: "5", Set: "1"}})
	next, _ := open(t, path)
	got, err := next.Entries("")
	want := map[string]Entry{"a": {Before: "0", Set: "1"}, "b": {Before: "0", Set: "1", Undo: true}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}

func TestTheLastTakesTheFileAlong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "before.json")
	f, _ := open(t, path)
	f.Note(map[string]Entry{"link a": {}, "sysctl b": {}})
	for _, name := range []string{"sysctl b", "link a", "link a"} {
		if err := f.Forget(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	if got, err := f.Entries("link"); len(got) > 0 || err != nil {
		t.Errorf("entries %v, %v", got, err)
	}
}

// A file that is not ours is neither taken for one nor overwritten.
func TestWhatIsNoRecordStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "before.json")
	if err := os.WriteFile(path, []byte("{half"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, said := open(t, path)
	for range 3 {
		f.Note(map[string]Entry{"a": {Before: "0", Set: "1"}})
	}
	if got := text(t, path); got != "{half" {
		t.Errorf("it is now %s", got)
	}
	if n := strings.Count(said.String(), "cannot be recorded"); n != 1 || !strings.Contains(said.String(), path) {
		t.Errorf("said %d times:\n%s", n, said.String())
	}
	if _, err := f.Entries(""); err == nil {
		t.Error("Entries took it for a record")
	}
}

func TestNil(t *testing.T) {
	var f *File
	f.Note(map[string]Entry{"a": {}})
	if err := f.Forget("a"); err != nil {
		t.Error(err)
	}
	if got, err := f.Entries(""); len(got) != 0 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}
