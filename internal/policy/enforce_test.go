package policy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// slowSets carries out one change after the other, and lets somebody look at
// the kernel after each.
type slowSets struct {
	*ipset.Fake
	look func()
}

func (s slowSets) Apply(changes []ipset.Change) []error {
	var errs []error
	for _, c := range changes {
		errs = append(errs, s.Fake.Apply([]ipset.Change{c})...)
		s.look()
	}
	return errs
}

// slowRules is the same for rules.
type slowRules struct {
	*iptables.Fake
	look func()
}

func (r slowRules) Restore(ctx context.Context, input string) error {
	err := r.Fake.Restore(ctx, input)
	r.look()
	return err
}

// startSlowly starts an agent that is looked at after each step.
func (w *world) startSlowly(mode NewPods, look func()) {
	config := testConfig
	config.NewPods = mode
	quiet := slog.New(slog.DiscardHandler)
	drivers := w.drivers(map[inet.Family]*iptables.Ruleset{inet.IPv4: iptables.NewRuleset(slowRules{w.rules, look}, inet.IPv4, quiet)})
	drivers.Sets = slowSets{w.sets, look}
	w.c = New(config, w.feeds, drivers, quiet)
}

// ask is the first packet of a connection from another node.
func ask(ip string) packet {
	return packet{src: netip.MustParseAddr("10.244.2.5"), dst: netip.MustParseAddr(ip), protocol: inet.TCP, port: 80}
}

func thisNode(cidrs ...string) (cluster.Key, *cluster.Node) {
	n := &cluster.Node{Meta: cluster.Meta{Key: cluster.Key{Name: "node1"}}}
	for _, cidr := range cidrs {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(cidr))
	}
	return n.Key, n
}

// From the moment that a Pod is expected there is none in which it can be
// reached that a policy selects: not between two changes of sets, and not
// between them and the rules. So it is where a Pod with other policies had the
// address before, and where the agent starts over what a former one left.
func TestThereIsNoOpenMoment(t *testing.T) {
	for _, mode := range []NewPods{Selected, Closed} {
		for name, agents := range map[string]int{"one agent": 1, "two agents": 2} {
			t.Run(name, func(t *testing.T) {
				w := newWorld()
				steps, watching := 0, false
				look := func() {
					if steps++; watching && w.tracer().passes("FORWARD", ask("10.244.1.9")) {
						t.Errorf("%d: step %d: it is reached\n%s", mode, steps, w.kernel())
					}
				}
				w.startSlowly(mode, look)
				w.feeds.Nodes.Set(thisNode("10.244.1.0/24"))
				w.policy(denyIngress("red"))
				w.pod(newPod("blue", "former", "node1", "10.244.1.9", ""))
				w.pod(newPod("red", "web", "node1", "", ""))
				w.settle(t)
				w.feeds.Pods.Delete(cluster.Key{Namespace: "blue", Name: "former"})
				w.settle(t)
				watching = true
				if agents == 2 {
					w.feeds = cluster.NewFeeds()
					w.startSlowly(mode, look)
					w.feeds.Nodes.Set(thisNode("10.244.1.0/24"))
					w.policy(denyIngress("red"))
				}
				steps = 0
				w.pod(newPod("red", "web", "node1", "10.244.1.9", ""))
				w.settle(t)
				if steps < 3 {
					t.Errorf("only %d steps were seen", steps)
				}
			})
		}
	}
}

// The host asks a Pod that is new, and hears of it.
func TestProbesOfNewPods(t *testing.T) {
	w := newWorld()
	w.startSlowly(Closed, func() {})
	w.feeds.Nodes.Set(thisNode("10.244.1.0/24"))
	w.settle(t)
	probe := ask("10.244.1.9")
	probe.src, probe.local = netip.MustParseAddr("10.244.1.1"), true
	answer := packet{src: probe.dst, dst: probe.src, protocol: inet.TCP, port: 40000, toHost: true}
	if !w.tracer().passes("OUTPUT", probe) {
		t.Error("the probe does not pass")
	}
	if w.tracer().passes("INPUT", answer) {
		t.Error("the Pod asks the host")
	}
	if answer.established = true; !w.tracer().passes("INPUT", answer) {
		t.Error("the answer does not pass")
	}
}

// Where Pods elsewhere have addresses of this node's Pod CIDR, the CIDR does not
// tell whose a new one is: what has a Pod is not closed.
func TestStrangersAreNotClosed(t *testing.T) {
	w := newWorld()
	w.startSlowly(Closed, func() {})
	expect := func(what string, want bool) {
		t.Helper()
		w.settle(t)
		if got := w.tracer().passes("FORWARD", ask("10.244.1.77")); got != want {
			t.Errorf("%s: passes %v, want %v\n%s", what, got, want, w.kernel())
		}
	}
	stranger := newPod("red", "web", "node2", "10.244.1.77", "")
	w.pod(stranger)
	w.feeds.Nodes.Set(thisNode("10.244.1.0/24"))
	expect("it was there before the node", true)
	w.feeds.Pods.Delete(stranger.Key)
	expect("it is gone", false)
	w.pod(stranger)
	expect("it is back", true)
	w.feeds.Nodes.Set(thisNode("10.244.3.0/24"))
	w.feeds.Nodes.Set(thisNode("10.244.1.0/24"))
	expect("the node's CIDR was another", true)
}

// Without Pod CIDRs nothing is closed, and that is said once.
func TestNoPodCIDRs(t *testing.T) {
	var log strings.Builder
	w := newWorld()
	config := testConfig
	config.NewPods = Closed
	quiet := slog.New(slog.DiscardHandler)
	w.c = New(config, w.feeds, w.drivers(map[inet.Family]*iptables.Ruleset{
		inet.IPv4: iptables.NewRuleset(w.rules, inet.IPv4, quiet)}), slog.New(slog.NewTextHandler(&log, nil)))
	w.feeds.Nodes.Set(thisNode())
	w.settle(t)
	w.pod(newPod("red", "web", "node1", "10.244.1.9", ""))
	w.settle(t)
	if !w.tracer().passes("FORWARD", ask("10.244.1.10")) {
		t.Error("a new Pod is closed")
	}
	if n := strings.Count(log.String(), "has no podCIDRs"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}

// What fails in one family does not keep the other from going on, nor the
// sets; what was in force stays so, and is tried again.
func TestFailuresAreOfTheirOwn(t *testing.T) {
	for name, fail := range map[string]func(w *world) (heal func()){
		"iptables-restore": func(w *world) func() {
			w.rules.Fail = func(string) error { return errors.New("no memory") }
			return func() { w.rules.Fail = nil }
		},
		"a set": func(w *world) func() {
			w.sets.Fail = func(c ipset.Change) error {
				if c.Op == ipset.Create && !strings.HasPrefix(c.Name, "inet6:") {
					return errors.New("no memory")
				}
				return nil
			}
			return func() { w.sets.Fail = nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newDualWorld()
			backend := newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend")
			backend.IPs = append(backend.IPs, netip.MustParseAddr("fd00::8"))
			w.pod(backend)
			w.policy(denyIngress("production"))
			w.settle(t)
			before := w.rules.Text(iptables.Filter)
			heal := fail(w)
			w.policy(allowFrontend())
			if err := w.work(); err == nil {
				t.Fatal("no error")
			}
			if w.rules.Text(iptables.Filter) != before {
				t.Error("what was in force in IPv4 is not any more")
			}
			if !strings.Contains(w.rules6.Text(iptables.Filter), "policy production/allow-frontend") {
				t.Error("IPv6 did not go on")
			}
			w.pod(newPod("production", "frontend-1", "node2", "fd00::5", "app=frontend"))
			_ = w.attempt(2)
			if !strings.Contains(w.sets.Save(), "fd00::5") {
				t.Error("sets did not go on")
			}
			w.pod(newPod("production", "frontend-2", "node2", "10.244.2.5", "app=frontend"))
			_ = w.attempt(3)
			heal()
			w.settle(t)
			w.asIfFresh(t)
		})
	}
}

// A family that does not come up keeps nobody from repairing the other, nor from
// removing what a former run left in it; what is its own stays.
func TestRepairsBesideAFailingFamily(t *testing.T) {
	w := newDualWorld()
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		create := ipset.Change{Op: ipset.Create, Name: setName(peerPrefix+"LEFT", f), Spec: addressSet(f, slices.Values([]netip.Addr{})).Spec}
		if err := errors.Join(w.sets.Apply([]ipset.Change{create})...); err != nil {
			t.Fatal(err)
		}
	}
	w.rules6.Fail = func(string) error { return errors.New("no ip6_tables") }
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.policy(denyIngress("production"))
	_ = w.attempt(1)
	if sets := w.sets.Save(); strings.Contains(sets, "create KUBE-ROUTER-LEFT") || !strings.Contains(sets, "create inet6:KUBE-ROUTER-LEFT") {
		t.Errorf("the sets are\n%s", sets)
	}
	want := w.rules.Text(iptables.Filter)
	for name, alone := range map[string]bool{"a resync alone": true, "a resync together with a change": false} {
		if err := w.rules.Foreign("*filter\n-F " + forwardChain + "\nCOMMIT\n"); err != nil {
			t.Fatal(err)
		}
		keys := []key{resyncKey}
		if !alone {
			keys = append(keys, rulesKey)
		}
		w.c.queue.Mark(keys...)
		w.c.work(t.Context(), w.c.queue.Take(t.Context()))
		if w.rules.Text(iptables.Filter) != want {
			t.Errorf("%s: IPv4 is not repaired:\n%s", name, w.kernel())
		}
	}
	if w.isReady() {
		t.Error("it is ready")
	}
	w.rules6.Fail = nil
	w.settle(t)
	w.asIfFresh(t)
	if !w.isReady() {
		t.Error("it is not ready in the end")
	}
}

// What keeps a family from following a change keeps nobody from repairing what
// is in force there.
func TestRepairsBesideAFailingChange(t *testing.T) {
	w := newDualWorld()
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.policy(denyIngress("production"))
	w.settle(t)
	want := w.rules.Text(iptables.Filter)
	w.sets.Fail = func(c ipset.Change) error {
		if c.Op == ipset.Create {
			return errors.New("no memory")
		}
		return nil
	}
	if err := w.rules.Foreign("*filter\n-F " + forwardChain + "\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	w.policy(allowFrontend())
	w.c.queue.Mark(resyncKey)
	_ = w.attempt(1)
	if w.rules.Text(iptables.Filter) != want {
		t.Errorf("what is in force is not repaired:\n%s", w.kernel())
	}
	w.sets.Fail = nil
	w.settle(t)
	w.asIfFresh(t)
}

// A Pod that changes between a first attempt and the one that succeeds is not
// forgotten.
func TestChangesDuringAFailingStart(t *testing.T) {
	w := newDualWorld()
	w.rules.Fail = func(string) error { return errors.New("another program holds the lock") }
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.pod(newPod("production", "frontend-1", "node2", "10.244.2.5", "app=frontend"))
	w.policy(allowFrontend())
	if err := w.work(); err == nil {
		t.Fatal("no error")
	}
	w.pod(newPod("production", "frontend-2", "node2", "10.244.2.6", "app=frontend"))
	w.feeds.Pods.Delete(cluster.Key{Namespace: "production", Name: "frontend-1"})
	_ = w.attempt(2)
	w.rules.Fail = nil
	w.settle(t)
	w.asIfFresh(t)
}

// asIfFresh holds the kernel to what an agent makes of the present that starts
// over an empty one.
func (w *world) asIfFresh(t *testing.T) {
	t.Helper()
	fresh := newDualWorld()
	for _, p := range w.c.state.pods {
		for _, pod := range p {
			fresh.pod(pod)
		}
	}
	for _, p := range w.c.state.policies {
		for _, policy := range p {
			fresh.policy(policy)
		}
	}
	fresh.settle(t)
	if w.kernel() != fresh.kernel() {
		t.Errorf("the kernel holds\n%s\nwant\n%s", w.kernel(), fresh.kernel())
	}
}
