package bgp

import (
	"net/netip"
	"testing"
	"time"
)

// A reflector that starts tells its own routes at once, and what it has learned
// when no more comes; and then however much comes when it has waited long.
func TestAReflectorThatStartsWaitsForItsClients(t *testing.T) {
	for name, end := range map[string]func(*Speaker){
		"until all is quiet": func(*Speaker) {},
		"no longer than it may": func(r *Speaker) {
			r.mu.Lock()
			r.hold.since = time.Now().Add(-holdMost)
			r.mu.Unlock()
		},
	} {
		t.Run(name, func(t *testing.T) {
			const net = 79
			r, a, b := reflector(t, net, 1), start(t, testConfig(net, 2)), start(t, testConfig(net, 3))
			for n, s := range map[byte]*Speaker{1: r, 2: a, 3: b} {
				advertise(t, s, own(net, n)...)
			}
			set(t, r, peering(net, 1, 2, 64512, Client), peering(net, 1, 3, 64512, Client))
			set(t, a, peering(net, 2, 1, 64512, Reflector))
			set(t, b, peering(net, 3, 1, 64512, Reflector))
			const before, after = "10.244.1.0/24 via [127.0.79.1]", "10.244.3.0/24 via [127.0.79.3]"
			noise := func() {
				r.mu.Lock()
				r.heard()
				r.mu.Unlock()
			}
			eventually(t, holdMost-time.Second, "all have the reflector's route and it has theirs", func() (bool, string) {
				noise()
				return table(a) != "" && table(b) != "" && len(r.Learned()) == 2, table(r)
			})
			if got := table(a); got != before {
				t.Errorf("while clients come up one learned\n%s", got)
			}
			for _, p := range r.Peers() {
				if p.Advertised != 1 {
					t.Errorf("client %s is said to be told %d routes", p.Addr, p.Advertised)
				}
			}
			end(r)
			eventually(t, 10*time.Second, "the client learns of the other", func() (bool, string) {
				if name != "until all is quiet" {
					noise()
				}
				return table(a) == before+"\n"+after, table(a)
			})
		})
	}
}

// What GoBGP does not take at the end of the wait it is given again: else the
// clients would never hear of each other.
func TestAReflectorTriesAgain(t *testing.T) {
	const net = 82
	r, a, b := reflector(t, net, 1), start(t, testConfig(net, 2)), start(t, testConfig(net, 3))
	set(t, r, peering(net, 1, 2, 64512, Client), peering(net, 1, 3, 64512, Client))
	advertise(t, b, own(net, 3)...)
	refused := func(reject ...netip.Prefix) {
		r.apply.Lock()
		r.policy.Reject = reject
		r.apply.Unlock()
	}
	refused(netip.Prefix{}) // which is none
	set(t, a, peering(net, 2, 1, 64512, Reflector))
	set(t, b, peering(net, 3, 1, 64512, Reflector))
	learns(t, r, "10.244.3.0/24 via [127.0.82.3]")
	err := r.reflect()
	if err == nil || !r.holding() {
		t.Fatalf("the policies were taken: %v", err)
	}
	refused()
	learns(t, a, "10.244.3.0/24 via [127.0.82.3]")
}

// After a graceful restart peers still have what was told: GoBGP waits for
// what they say, and no longer.
func TestNoWaitAfterAGracefulRestart(t *testing.T) {
	c := testConfig(80, 1)
	for _, step := range []struct {
		name   string
		change func()
		want   bool
	}{
		{"a node that reflects nothing", func() {}, false},
		{"a reflector", func() { c.ClusterID = c.RouterID }, true},
		{"with graceful restart, for the first time", func() { c.GracefulRestart = true }, true},
		{"after a restart", func() { c.Restarting = true }, false},
	} {
		if step.change(); c.startsOnHold() != step.want {
			t.Errorf("%s: waits: %v", step.name, !step.want)
		}
	}
}
