package routes

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// The annotations of the tests.
const (
	reflectorOf = "kube-router.io/node.bgp.routereflector.cluster-id"
	asnOf       = "kube-router.io/node.asn"
	peersOf     = "kube-router.io/peers"
	listenAt    = "kube-router.io/bgp-local-addresses"
)

// noted is a node with annotations, key and value in turn.
func noted(n int, notes ...string) *cluster.Node {
	o := node(n)
	o.Annotations = map[string]string{}
	for i := 0; i < len(notes); i += 2 {
		o.Annotations[notes[i]] = notes[i+1]
	}
	return o
}

// table is what a speaker is and whom it speaks with.
func table(s *bgp.Fake) string {
	var b strings.Builder
	config := s.Config()
	fmt.Fprintf(&b, "AS %d", config.ASN)
	if config.ClusterID.IsValid() {
		fmt.Fprintf(&b, ", reflector with %s", config.ClusterID)
	}
	b.WriteString("\n")
	for _, p := range s.Peers() {
		fmt.Fprintf(&b, "%s as %d %s\n", p.Addr, p.ASN, p.Role)
	}
	return b.String()
}

// speaks waits until the speaker's table is so.
func (r *run) speaks(want string) {
	r.t.Helper()
	var got string
	defer func() {
		if r.t.Failed() {
			r.t.Logf("the speaker's table:\n%s", got)
		}
	}()
	r.until("the speaker is "+want, func() bool {
		s := r.host.speaker()
		if s == nil {
			return false
		}
		got = table(s)
		return strings.TrimSpace(got) == strings.TrimSpace(want)
	})
}

// Annotations take effect while the agent runs, and what a change does not
// concern keeps its session.
func TestAnnotationsAreFollowed(t *testing.T) {
	h := newHost(t)
	r := h.start(func(c *Config) { c.Peering.FullMesh = false }, nodes(1, 2, 3))
	r.until("a speaker", func() bool { return h.started() == 1 })
	const router = "- {remoteip: 192.168.66.1, remoteasn: 65100}\n"
	for _, step := range []struct {
		name string
		set  *cluster.Node
		want string
		// sessions and speakers are how many this starts.
		sessions, speakers int
		warned             string
	}{
		{"no reflector", node(1), "AS 64512", 0, 0, "Node n1 NoRouteReflector"},
		{"n2 becomes one", noted(2, reflectorOf, "1.0.0.1"), "AS 64512\n192.168.66.12 as 64512 reflector", 1, 0, ""},
		{"and n3", noted(3, reflectorOf, "1.0.0.1"), "AS 64512\n192.168.66.12 as 64512 reflector\n192.168.66.13 as 64512 reflector", 1, 0, ""},
		{"this node gets a router", noted(1, peersOf, router),
			"AS 64512\n192.168.66.1 as 65100 external\n192.168.66.12 as 64512 reflector\n192.168.66.13 as 64512 reflector", 1, 0, ""},
		{"one that cannot be", noted(1, peersOf, router+"- {remoteip: 192.168.66.2, remoteasn: 65100, password: pass%word}\n"),
			"AS 64512\n192.168.66.1 as 65100 external\n192.168.66.12 as 64512 reflector\n192.168.66.13 as 64512 reflector", 0, 0,
			"Node n1 BadAnnotation: annotation kube-router.io/peers: peer 2: the password is not base64"},
		{"n2 leaves", node(2), "AS 64512\n192.168.66.1 as 65100 external\n192.168.66.13 as 64512 reflector", 0, 0, ""},
		{"n3 has an AS number of its own", noted(3, reflectorOf, "1.0.0.1", asnOf, "65001"), "AS 64512\n192.168.66.1 as 65100 external", 0, 0, ""},
		{"and this node, too", noted(1, peersOf, router, asnOf, "65001"),
			"AS 65001\n192.168.66.1 as 65100 external\n192.168.66.13 as 65001 reflector", 2, 1, ""},
		{"this node reflects", noted(1, peersOf, router, asnOf, "65001", reflectorOf, "1.0.0.2"),
			"AS 65001, reflector with 192.168.66.11\n192.168.66.1 as 65100 external\n192.168.66.13 as 65001 client", 2, 1, ""},
		{"it has a client", noted(2, asnOf, "65001"),
			"AS 65001, reflector with 192.168.66.11\n192.168.66.1 as 65100 external\n192.168.66.12 as 65001 client\n192.168.66.13 as 65001 client", 1, 0, ""},
		{"an id that cannot be", noted(1, peersOf, router, asnOf, "65001", reflectorOf, "0"),
			"AS 65001\n192.168.66.1 as 65100 external\n192.168.66.13 as 65001 reflector", 2, 1,
			`Node n1 BadAnnotation: annotation kube-router.io/node.bgp.routereflector.cluster-id: "0" is not a cluster ID`},
	} {
		before, sessions := h.started(), h.speaker().Sessions()
		r.set(step.set)
		t.Log(step.name)
		r.speaks(step.want)
		r.until("warned of "+step.warned, func() bool { return step.warned == "" || r.warns.warned(step.warned) })
		if got := h.started() - before; got != step.speakers {
			t.Errorf("%s: %d speakers were started, want %d", step.name, got, step.speakers)
		}
		if step.speakers > 0 {
			sessions = 0
		}
		if got := h.speaker().Sessions() - sessions; got != step.sessions {
			t.Errorf("%s: %d sessions were configured, want %d", step.name, got, step.sessions)
		}
	}
	if r.warns.warned("pass%word") {
		t.Error("a password was told")
	}
}

// Without graceful restart a change of the role as a reflector is one of the
// sessions with nodes, and routers see nothing of it.
func TestTheRoleChangesInASpeakerThatRuns(t *testing.T) {
	h := newHost(t)
	r := h.start(func(c *Config) { c.GracefulRestart = false }, nodes(1, 2, 3))
	const router, others = "- {remoteip: 192.168.66.1, remoteasn: 65100}\n", "192.168.66.1 as 65100 external\n192.168.66.12 as 64512 %[1]s\n192.168.66.13 as 64512 %[1]s"
	r.set(noted(1, peersOf, router))
	r.speaks("AS 64512\n" + fmt.Sprintf(others, "mesh"))
	for _, step := range []struct {
		set  *cluster.Node
		want string
	}{
		{noted(1, peersOf, router, reflectorOf, "1.0.0.1"), "AS 64512, reflector with 192.168.66.11\n" + fmt.Sprintf(others, "client")},
		{noted(1, peersOf, router), "AS 64512\n" + fmt.Sprintf(others, "mesh")},
	} {
		before := h.speaker().Sessions()
		r.set(step.set)
		r.speaks(step.want)
		r.settled("sweep")
		if got := h.speaker().Sessions() - before; got != 2 || h.started() != 1 {
			t.Errorf("%d sessions of two nodes started anew, in %d speakers", got, h.started())
		}
	}
	if !r.warns.warned("Node n1 RoleChanged") {
		t.Error("nobody was warned")
	}
}

// An address that the host loses for a while ends no session; one that it never
// had before, or that is not to be listened at any more, needs another speaker.
func TestAnAddressToListenAtComesAndGoes(t *testing.T) {
	h := newHost(t)
	const first, both = "172.16.0.1", "172.16.0.1,172.17.0.1"
	h.links.AddLink("eth1", 1500, prefix(first+"/24"))
	h.routes.AddLink("eth1", prefix(first+"/24"))
	r := h.start(nil, nodes(2))
	r.set(noted(1, listenAt, first))
	r.until("a speaker", func() bool { return h.started() == 1 })
	r.listens("192.168.66.11 172.16.0.1", 1)
	r.until("a watch", h.routes.Watched)
	h.links.DelLink("eth1")
	h.routes.DelLink("eth1")
	r.until("the loss is told", func() bool { return r.warns.warned("no link of this host has the address " + first) })
	r.settled("sweep")
	r.listens("192.168.66.11 172.16.0.1", 1)
	r.addLink("eth1", first+"/24")
	r.settled("sweep")
	r.listens("192.168.66.11 172.16.0.1", 1)
	r.addLink("eth2", "172.17.0.1/24")
	r.set(noted(1, listenAt, both))
	r.listens("192.168.66.11 172.16.0.1 172.17.0.1", 2)
	r.set(noted(1, listenAt, first))
	r.listens("192.168.66.11 172.16.0.1", 3)
}

// listens waits until the speaker, the one of a number, listens at addresses.
func (r *run) listens(want string, started int) {
	r.t.Helper()
	r.until(fmt.Sprintf("speaker %d listens at %s", started, want), func() bool {
		return r.host.started() == started && fmt.Sprint(r.host.speaker().Config().Listen) == "["+want+"]"
	})
}

func (h *host) started() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.speakers)
}

// A node that is no peer any more stays one for a while, for what it says may
// not yet have come another way. One that is gone is gone.
func TestSessionsLinger(t *testing.T) {
	h := newHost(t)
	const two, three = "AS 64512\n192.168.66.12 as 64512 reflector\n192.168.66.13 as 64512 reflector", "AS 64512\n192.168.66.13 as 64512 reflector"
	r := h.start(func(c *Config) { c.Peering.FullMesh, c.Linger = false, time.Second }, nodes(1, 2, 3))
	r.set(noted(2, reflectorOf, "1.0.0.1"), noted(3, reflectorOf, "1.0.0.1"))
	r.speaks(two)
	before := time.Now()
	r.set(node(2))
	r.until("n2 has left", func() bool { return len(h.speaker().Peers()) == 1 })
	if took := time.Since(before); took < time.Second {
		t.Errorf("n2 left after %v", took)
	}
	r.speaks(three)
	r.set(noted(2, reflectorOf, "1.0.0.1"))
	r.speaks(two)
	r.set(node(2))
	r.set(noted(2, reflectorOf, "1.0.0.1"))
	r.settled("sweep")
	sessions := h.speaker().Sessions()
	before = time.Now()
	r.feeds.Nodes.Delete(node(2).Key)
	r.speaks(three)
	if took := time.Since(before); took >= time.Second {
		t.Errorf("n2 was deleted and left after %v", took)
	}
	if got := h.speaker().Sessions() - sessions; got != 0 {
		t.Errorf("%d sessions were configured", got)
	}
}

// What a reflector hears after it has delivered its table finds the former
// run's route still there.
func TestTheSweepWaitsForWhatReflectorsHear(t *testing.T) {
	h := newHost(t)
	for _, r := range []route.Route{staleRoute("10.244.2.0/24", "192.168.66.12"), staleRoute("10.244.3.0/24", "192.168.66.13"), staleRoute("10.244.9.0/24", "192.168.66.19")} {
		if err := h.routes.Replace(r); err != nil {
			t.Fatal(err)
		}
	}
	before := h.routes.Changes()
	r := h.start(func(c *Config) { c.Peering.FullMesh, c.SettleTime = false, time.Second }, nodes(1, 3))
	r.set(noted(2, reflectorOf, "1.0.0.1"))
	r.speaks("AS 64512\n192.168.66.12 as 64512 reflector")
	s, two := h.speaker(), addr("192.168.66.12")
	s.Establish(two)
	s.Deliver(two, prefix("10.244.2.0/24"), two)
	s.Settle(two)
	r.settled()
	s.Deliver(two, prefix("10.244.3.0/24"), addr("192.168.66.13"))
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17", "10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17")
	r.until("swept", func() bool { return r.Status().Swept })
	if got := h.routes.Changes() - before; got != 1 {
		t.Errorf("%d changes of routes, want one: the stale one goes", got)
	}
}
