package routes

import (
	"os"
	"strings"
	"testing"
)

// The kubelet starts Pods once the CNI configuration is there: a node that has
// none yet gets it when policies are in force. A node that has one has Pods, and
// what they need does not wait.
func TestNoCNIConfigurationBeforePolicies(t *testing.T) {
	h := newHost(t)
	isolated := make(chan struct{})
	with := func(c *Config) { c.Policies = isolated }
	r := h.start(with, nodes(1, 2))
	r.answers(2)
	r.settled("cni")
	if _, err := os.Stat(h.cniFile); err == nil {
		t.Error("the CNI configuration is there before policies are in force")
	}
	if why := r.Status().Pending[0].String(); !strings.Contains(why, "waiting for the policies") {
		t.Errorf("it says %q", why)
	}
	select {
	case <-r.Ready():
		t.Error("it is ready")
	default:
	}
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17")
	close(isolated)
	r.settled()
	if _, err := os.Stat(h.cniFile); err != nil {
		t.Error(err)
	}
	r.end()
	isolated = make(chan struct{})
	r = h.start(with, nodes(1, 2))
	r.until("an agent that is started anew is ready", func() bool {
		select {
		case <-r.Ready():
			return true
		default:
			return false
		}
	})
}
