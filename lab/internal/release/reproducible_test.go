//go:build release

package release

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The same sources in another folder, compiled with nothing that was compiled
// before, are the same program.
func TestReproducible(t *testing.T) {
	here, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(t.TempDir(), "another", "place")
	copySources(t, here, there)
	first := build(t, here)
	t.Setenv("GOCACHE", t.TempDir())
	if !bytes.Equal(first, build(t, there)) {
		t.Error("the programs differ: does something depend on the folder, the time or git?")
	}
	if bytes.Contains(first, []byte(here)) {
		t.Errorf("the program has the folder %s in it", here)
	}
}

func build(t *testing.T, source string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "kube-router")
	if err := BuildProduct(context.Background(), source, Platforms()[0], "v1.2.3", out); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// copySources copies what git knows, as it is in the working tree.
func copySources(t *testing.T, from, to string) {
	t.Helper()
	list, err := exec.Command("git", "-C", from, "ls-files", "-co", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(list)) {
		name = strings.TrimSuffix(name, "\n")
		text, err := os.ReadFile(filepath.Join(from, name))
		if os.IsNotExist(err) {
			continue // deleted, but not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
