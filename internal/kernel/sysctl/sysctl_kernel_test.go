//go:build kernel

package sysctl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// /proc/sys/net shows the namespace of the thread that opens a file.
func TestKernel(t *testing.T) {
	nstest.New(t)
	k := New("")
	for _, want := range []bool{true, false} {
		if changed, err := k.Set("net/ipv4/conf/lo/rp_filter", "2"); err != nil || changed != want {
			t.Errorf("Set = %t, %v, want %t", changed, err, want)
		}
	}
	if got := nstest.Run(t, "sysctl", "-n", "net.ipv4.conf.lo.rp_filter"); got != "2\n" {
		t.Errorf("sysctl says %q", got)
	}
}

// A container that is not privileged writes by way of the mount that it has for
// that, and reads its own /proc/sys.
func TestReadOnlyIsWrittenElsewhere(t *testing.T) {
	own, mounted := t.TempDir(), t.TempDir()
	for _, dir := range []string{own, mounted} {
		if err := os.MkdirAll(filepath.Join(dir, "net/ipv4"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(mounted, "net/ipv4/ip_forward")
	if err := os.WriteFile(file, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(mounted, own, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(own, 0) })
	if err := unix.Mount("", own, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := (Kernel{root: own}).Set("net/ipv4/ip_forward", "1"); !errors.Is(err, unix.EROFS) {
		t.Fatalf("what is to be tested is not there: %v", err)
	}
	k := Kernel{root: own, writable: mounted}
	for _, want := range []bool{true, false} {
		if changed, err := k.Set("net/ipv4/ip_forward", "1"); err != nil || changed != want {
			t.Errorf("Set = %t, %v, want %t", changed, err, want)
		}
	}
	_, err := Kernel{root: own, writable: t.TempDir()}.Set("net/ipv4/ip_forward", "0")
	if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "/host/proc/sys/net") {
		t.Errorf("without the mount: %v, want what to mount", err)
	}
}
