//go:build kernel

package iptables

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// holdLock takes iptables' lock until release is called.
func holdLock(t *testing.T) (release func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xtables.lock")
	t.Setenv("XTABLES_LOCKFILE", path)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}

func isLocked(err error) bool { return errors.Is(err, ErrLocked) }
