package cni

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEnsureWritesOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	f := NewFile(filepath.Join(dir, "10-kuberouter.conflist"))
	for i, want := range []bool{true, false} {
		if changed, err := f.Ensure(network("10.244.1.0/24")); changed != want || err != nil {
			t.Fatalf("call %d: changed %v, %v", i+1, changed, err)
		}
	}
	info, err := os.Stat(f.Path())
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if changed, err := f.Ensure(network("10.244.2.0/24")); !changed || err != nil {
		t.Errorf("another CIDR: changed %v, %v", changed, err)
	}
	cidrs, err := f.PodCIDRs()
	if len(cidrs) != 1 || cidrs[0].String() != "10.244.2.0/24" || err != nil {
		t.Errorf("pod CIDRs %v, %v", cidrs, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestEnsureWaitsForTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net.d")
	f := NewFile(filepath.Join(dir, "10-kuberouter.conflist"))
	if _, err := f.Ensure(network("10.244.1.0/24")); !errors.Is(err, ErrNoDirectory) {
		t.Errorf("error without a directory: %v", err)
	}
	if cidrs, err := f.PodCIDRs(); cidrs != nil || err != nil {
		t.Errorf("pod CIDRs without a directory: %v, %v", cidrs, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Ensure(network("10.244.1.0/24")); !changed || err != nil {
		t.Errorf("changed %v, %v", changed, err)
	}
}

func TestEnsureLeavesABrokenFileAlone(t *testing.T) {
	f := NewFile(filepath.Join(t.TempDir(), "10-kuberouter.conflist"))
	write(t, f.Path(), "{broken")
	if _, err := f.Ensure(network("10.244.1.0/24")); err == nil || !strings.Contains(err.Error(), f.Path()+" stays as it is") {
		t.Errorf("error: %v", err)
	}
	if text, _ := os.ReadFile(f.Path()); string(text) != "{broken" {
		t.Errorf("the file is now %s", text)
	}
}

func TestRivals(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"05-cilium.conflist", "10-flannel.conf", "10-kuberouter.conflist", "20-later.conf", "00-notes.txt", ".hidden.tmp"} {
		write(t, filepath.Join(dir, name), "{}")
	}
	got := NewFile(filepath.Join(dir, "10-kuberouter.conflist")).Rivals()
	if want := []string{"05-cilium.conflist", "10-flannel.conf"}; !slices.Equal(got, want) {
		t.Errorf("rivals %v, want %v", got, want)
	}
}
