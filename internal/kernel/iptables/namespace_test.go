//go:build kernel || guest

package iptables

import (
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/kube-router/kube-router/internal/inet"
)

// openKernel returns the driver in a network namespace of the test's own.
func openKernel(t *testing.T, variant Variant, family inet.Family) *Kernel {
	t.Helper()
	enterNamespace(t)
	k, err := Open(t.Context(), family, variant)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func enterNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	origin, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := netns.New()
	if err != nil {
		t.Fatalf("making a network namespace (root is needed): %v", err)
	}
	t.Cleanup(func() {
		_ = fresh.Close()
		if netns.Set(origin) == nil {
			runtime.UnlockOSThread()
		}
		_ = origin.Close()
	})
}

func runTool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
