// Package nstest gives kernel tests a network namespace of their own.
package nstest

import (
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
)

// Namespace is a network namespace of a test.
type Namespace struct{ handle netns.NsHandle }

// New moves the test into a fresh network namespace, with its loopback up, and
// ends the namespace with the test. It holds for the calling goroutine and for
// the commands that it runs; other goroutines start in the old namespace, but
// those of Go.
func New(t testing.TB) *Namespace {
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
	return &Namespace{handle: fresh}
}

// Go runs fn in the namespace on a goroutine of its own.
func (n *Namespace) Go(t testing.TB, fn func()) {
	t.Helper()
	entered := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with fn
		err := netns.Set(n.handle)
		entered <- err
		if err == nil {
			fn()
		}
	}()
	if err := <-entered; err != nil {
		t.Fatalf("cannot enter the network namespace: %v", err)
	}
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
