package cni

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// theirs is a configuration that somebody else wrote, in which the agent
// completes the bridge plugin.
const theirs = `{"cniVersion":"0.3.1","name":"mynet","plugins":[
  {"type":"bridge","bridge":"kube-bridge","isDefaultGateway":true,"ipam":{"type":"host-local"}},
  {"type":"tuning","sysctl":{"net.core.somaxconn":"500"}}]}
`

func TestRemove(t *testing.T) {
	ensure := func(cidr string) func(*testing.T, File) {
		return func(t *testing.T, f File) {
			t.Helper()
			if _, err := f.Ensure(network(cidr)); err != nil {
				t.Fatal(err)
			}
		}
	}
	writes := func(text string) func(*testing.T, File) {
		return func(t *testing.T, f File) { write(t, f.Path(), text) }
	}
	edits := func(t *testing.T, f File) {
		t.Helper()
		text, err := os.ReadFile(f.Path())
		if err != nil {
			t.Fatal(err)
		}
		write(t, f.Path(), string(text)+"\n")
	}
	edited := freshFile[:len(freshFile)-2] + `,"disableCheck": true}` + "\n"
	for _, c := range []struct {
		name  string
		steps []func(*testing.T, File)
		want  Removal
		left  string // of the file, "" where there is none
	}{
		{"no file", nil, Nothing, ""},
		{"the agent's own", []func(*testing.T, File){ensure("10.244.1.0/24")}, Removed, ""},
		{"the agent's own, changed by it", []func(*testing.T, File){ensure("10.244.1.0/24"), ensure("10.244.2.0/24")}, Removed, ""},
		{"written in place of an empty one", []func(*testing.T, File){writes("\n"), ensure("10.244.1.0/24")}, Removed, ""},
		{"somebody's, completed", []func(*testing.T, File){writes(theirs), ensure("10.244.1.0/24")}, Restored, theirs},
		{"somebody's, completed twice", []func(*testing.T, File){writes(theirs), ensure("10.244.1.0/24"), ensure("10.244.2.0/24")}, Restored, theirs},
		{"somebody's, written anew meanwhile", []func(*testing.T, File){
			writes(theirs), ensure("10.244.1.0/24"), writes(theirs + "\n"), ensure("10.244.1.0/24")}, Restored, theirs + "\n"},
		{"the agent's own, edited", []func(*testing.T, File){ensure("10.244.1.0/24"), writes(edited)}, Kept, edited},
		{"complete from the beginning", []func(*testing.T, File){writes(edited), ensure("10.244.1.0/24")}, Kept, edited},
		{"another plugin's", []func(*testing.T, File){writes(`{"name":"cbr0","type":"flannel"}`)}, Nothing, `{"name":"cbr0","type":"flannel"}`},
		{"another bridge's", []func(*testing.T, File){writes(`{"type":"bridge","bridge":"cni0"}`)}, Nothing, `{"type":"bridge","bridge":"cni0"}`},
		{"no JSON", []func(*testing.T, File){writes("{broken")}, Nothing, "{broken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			f := NewFile(filepath.Join(dir, "10-kuberouter.conflist"))
			for _, step := range c.steps {
				step(t, f)
			}
			if got, err := f.Remove("kube-bridge"); got != c.want || err != nil {
				t.Errorf("Remove = %d, %v, want %d", got, err, c.want)
			}
			text, _ := os.ReadFile(f.Path())
			if diff := cmp.Diff(c.left, string(text)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			entries, _ := os.ReadDir(dir)
			if want := min(1, len(c.left)); len(entries) != want {
				t.Errorf("the directory has %v", entries)
			}
		})
	}
	t.Run("somebody's, completed and then edited", func(t *testing.T) {
		f := NewFile(filepath.Join(t.TempDir(), "10-kuberouter.conflist"))
		writes(theirs)(t, f)
		ensure("10.244.1.0/24")(t, f)
		edits(t, f)
		if got, err := f.Remove("kube-bridge"); got != Kept || err != nil {
			t.Errorf("Remove = %d, %v", got, err)
		}
		if n, err := f.readNote(); n == nil || n.Before != theirs || err != nil {
			t.Errorf("the former content is lost: %v, %v", n, err)
		}
	})
	t.Run("with its permissions", func(t *testing.T) {
		f := NewFile(filepath.Join(t.TempDir(), "10-kuberouter.conflist"))
		writes(theirs)(t, f)
		ensure("10.244.1.0/24")(t, f)
		if _, err := f.Remove("kube-bridge"); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(f.Path()); err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	t.Run("without a directory", func(t *testing.T) {
		if got, err := NewFile(filepath.Join(t.TempDir(), "net.d", "x.conflist")).Remove("kube-bridge"); got != Nothing || err != nil {
			t.Errorf("Remove = %d, %v", got, err)
		}
	})
}
