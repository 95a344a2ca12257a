package policy

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

func (w *world) isReady() bool {
	select {
	case <-w.c.Ready():
		return true
	default:
		return false
	}
}

// Beside another CNI plugin nobody else has the bridge ask iptables: the agent
// does, in each family, and puts it back where somebody sets it otherwise.
func TestBridgesAskTheRules(t *testing.T) {
	w := newDualWorld()
	v4, v6 := bridgeParameter(inet.IPv4), bridgeParameter(inet.IPv6)
	values := sysctl.NewFake(nil) // as without the module
	w.c.sysctl, w.c.modules = values, func(names ...string) error {
		values = sysctl.NewFake(map[string]string{v4: "0", v6: "0"})
		w.c.sysctl = values
		w.c.modules = func(...string) error { return nil }
		return nil
	}
	w.settle(t)
	if !w.isReady() {
		t.Error("it is not ready")
	}
	if _, err := values.Set(v6, "0"); err != nil {
		t.Fatal(err)
	}
	w.c.queue.Mark(platformKey, resyncKey)
	w.settle(t)
	for _, name := range []string{v4, v6} {
		if value, err := values.Get(name); value != "1" {
			t.Errorf("%s is %q: %v", name, value, err)
		}
	}
}

// Where a bridge does not ask, policies do not hold on it: that is no state to
// be ready in, and it is said what to do. The rules are programmed all the same.
func TestNotReadyWithoutTheModule(t *testing.T) {
	w := newWorld()
	values := sysctl.NewFake(nil)
	w.c.sysctl, w.c.modules = values, func(...string) error { return errors.New("missing kernel modules: br_netfilter") }
	w.policy(denyIngress("red"))
	w.pod(newPod("red", "web", "node1", "10.244.1.9", ""))
	err := w.attempt(2)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the error is %v", err)
	}
	for _, want := range []string{"platform", "between pods of one bridge", "modprobe br_netfilter", "missing kernel modules"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %q: %v", want, err)
		}
	}
	if w.isReady() {
		t.Error("it is ready")
	}
	if !strings.Contains(w.rules.Text(iptables.Filter), policyPrefix) {
		t.Errorf("the rules are not programmed:\n%s", w.kernel())
	}
	w.c.sysctl = sysctl.NewFake(map[string]string{bridgeParameter(inet.IPv4): "0"})
	w.settle(t)
	if !w.isReady() {
		t.Error("the module is there now, and it is not ready")
	}
}
