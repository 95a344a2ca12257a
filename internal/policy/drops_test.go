package policy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
)

// drops reads what was denied, as lines.
func (w *world) drops(t *testing.T) map[string]uint64 {
	t.Helper()
	d, err := w.c.Drops(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]uint64{}
	for drop, packets := range d.Policies {
		lines[drop.Direction+" "+drop.Policy.String()] = packets
	}
	if d.NewPods > 0 {
		lines["new pods"] = d.NewPods
	}
	return lines
}

// denied lets each rule that denies have matched a number of packets.
func (w *world) denied(packets uint64) {
	w.rules.Packets = func(chain, rule string) uint64 {
		if denies(chain, rule) {
			return packets
		}
		return 1_000_000
	}
}

// What is denied counts for the policies that isolate the Pod, from the agent's
// start on; a rule that is made anew counts from zero; the kernel is not read
// at each scrape; what is gone is not listed.
func TestDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.c.config.CountDrops = true
		w.namespace(newNamespace("production", ""))
		w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
		w.policy(allowFrontend())
		w.policy(denyIngress("production"))
		w.settle(t)
		expect := func(when string, want map[string]uint64) {
			t.Helper()
			if diff := cmp.Diff(want, w.drops(t)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		w.denied(100) // by rules of before the agent's start
		w.c.beginDrops(context.Background())
		expect("at first", map[string]uint64{})
		w.denied(103)
		expect("within ten seconds", map[string]uint64{})
		time.Sleep(dropsEvery)
		three := map[string]uint64{"ingress production/deny": 3, "ingress production/allow-frontend": 3, "egress production/allow-frontend": 3}
		expect("three each", three)
		w.denied(2)
		time.Sleep(dropsEvery)
		expect("made anew", map[string]uint64{"ingress production/deny": 5, "ingress production/allow-frontend": 5, "egress production/allow-frontend": 5})
		w.feeds.NetworkPolicies.Delete(cluster.Key{Namespace: "production", Name: "deny"})
		w.settle(t)
		expect("deleted", map[string]uint64{"ingress production/allow-frontend": 5, "egress production/allow-frontend": 5})
	})
}

// Pods that are not known yet have a count of their own: over the two rules of
// FORWARD, the two of OUTPUT and the one of INPUT.
func TestDropsOfNewPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorldWith(func(c *Config) { c.NewPods, c.CountDrops = Closed, true })
		w.feeds.Nodes.Set(thisNode("10.244.1.0/24"))
		w.settle(t)
		w.c.beginDrops(context.Background())
		w.denied(1)
		time.Sleep(dropsEvery)
		if diff := cmp.Diff(map[string]uint64{"new pods": 5}, w.drops(t)); diff != "" {
			t.Error(diff)
		}
	})
}

// What cannot be read is an error, and what is known is told.
func TestDropsThatCannotBeRead(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.c.Drops(ctx); err == nil {
		t.Error("no error")
	}
}
