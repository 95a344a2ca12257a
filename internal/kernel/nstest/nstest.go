// Package nstest gives kernel tests a network namespace of their own.
package nstest

import (
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
)

// New moves the test into a fresh network namespace, with its loopback up, and
// ends the namespace with the test. Test and sub-tests must stay on the
// calling goroutine; a goroutine of their own starts in the old namespace.
func New(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatalf("cannot get the network namespace: %v", err)
	}
	fresh, err := netns.New()
	if err != nil {
		t.Fatalf("cannot make a network namespace (kernel tests need root): %v", err)
	}
	t.Cleanup(func() {
		err := netns.Set(before)
		fresh.Close()
		before.Close()
		if err != nil {
			// The thread stays locked, so that it ends with its goroutine.
			t.Errorf("cannot return to the network namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	})
	Run(t, "ip", "link", "set", "lo", "up")
}

// Run runs a command in the test's namespace and returns its output.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}
