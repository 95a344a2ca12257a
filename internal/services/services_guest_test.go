//go:build guest

package services

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/link"
)

const (
	vip      = "10.96.0.10"
	vipHTTP  = vip + ":80"
	vipDNS   = vip + ":53"
	nodeHTTP = n1Addr + ":30080"
	nodeDNS  = n1Addr + ":30053"
)

// webs publishes n1 and a Service "web" with the given endpoints.
func webs(endpoints ...cluster.Endpoint) func(*cluster.Feeds) {
	return func(f *cluster.Feeds) {
		f.Nodes.Set(cluster.Key{Name: "n1"}, node("n1", n1Addr, "10.244.1.0/24"))
		web := service("web", vip, tcp(80, 30080), udp(53, 30053))
		f.Services.Set(web.Key, web)
		setSlice(f, endpoints...)
	}
}

func setSlice(f *cluster.Feeds, endpoints ...cluster.Endpoint) {
	s := slice("web", 8080, endpoints...)
	f.EndpointSlices.Set(s.Key, s)
}

func (n *network) servePods() {
	for _, pod := range []string{"a", "b", "c"} {
		n.hosts[pod].serve(8080)
	}
}

func wants(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func TestTraffic(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	n.hosts["n1"].serve(9999) // the host's own, on every address
	n.hosts["n1"].serve(22)
	c, _, _ := n.start(Config{Guard: true, Hairpin: true}, webs(ready(bAddr, "n1"), ready(cAddr, "n2")))
	for _, protocol := range []string{"tcp", "udp"} {
		vip, nodePort := vipHTTP, nodeHTTP
		if protocol == "udp" {
			vip, nodePort = vipDNS, nodeDNS
		}
		for _, x := range []struct{ from, to, want string }{
			{"a", vip, "b sees " + aAddr + ", c sees " + aAddr},
			{"n1", vip, "b sees " + n1Addr + ", c sees " + n1Addr},
			{"outside", nodePort, "b sees " + outsideAddr + ", c sees " + n1Addr},
			{"a", nodePort, "b sees " + aAddr + ", c sees " + aAddr},
			{"n1", nodePort, "b sees " + n1Addr + ", c sees " + n1Addr},
			{"c", nodePort, "b sees " + cAddr + ", c sees " + n1Addr},
			{"n2", nodePort, "b sees " + n2Addr + ", c sees " + n1Addr},
		} {
			wants(t, protocol+" from "+x.from+" to "+x.to, n.hosts[x.from].answers(protocol, x.to, 2), x.want)
		}
		// A Pod that is an endpoint meets itself with the node's address.
		wants(t, protocol+" from b to itself and c", n.hosts["b"].answers(protocol, vip, 2), "b sees 10.244.1.1, c sees "+bAddr)
	}
	for _, from := range []string{"a", "n1"} {
		for _, network := range []string{"tcp", "udp"} {
			wants(t, network+" from "+from+" to the host's port at the Service's address", n.hosts[from].get(network, vip+":9999"), "refused")
		}
	}
	wants(t, "the host's own port", n.hosts["outside"].get("tcp", n1Addr+":9999"), "n1 sees "+outsideAddr)
	wants(t, "ping", n.hosts["a"].ping(vip), "echo reply")
	if s := c.Status(); s.Services != 1 || s.VirtualServers != 4 || s.RealServers != 8 || s.Addresses != 1 || !s.IPVS {
		t.Errorf("status %+v", s)
	}
}

// Endpoints on nodes themselves, such as the API server's.
func TestEndpointsOnNodes(t *testing.T) {
	n := newNetwork(t)
	n.hosts["n1"].serveAt(n1Addr + ":8080")
	n.hosts["n2"].serveAt(n2Addr + ":8080")
	n.start(Config{Guard: true}, webs(ready(n1Addr, "n1"), ready(n2Addr, "n2")))
	for _, protocol := range []string{"tcp", "udp"} {
		vip, nodePort := vipHTTP, nodeHTTP
		if protocol == "udp" {
			vip, nodePort = vipDNS, nodeDNS
		}
		for _, x := range []struct{ from, to, want string }{
			{"a", vip, "n1 sees " + aAddr + ", n2 sees " + aAddr},
			{"n1", vip, "n1 sees " + n1Addr + ", n2 sees " + n1Addr},
			{"outside", nodePort, "n1 sees " + outsideAddr + ", n2 sees " + n1Addr},
		} {
			wants(t, protocol+" from "+x.from+" to "+x.to, n.hosts[x.from].answers(protocol, x.to, 2), x.want)
		}
	}
}

// With the traffic policy Local, clients from outside keep their address, and
// where no endpoint is here they hear nothing.
func TestLocalPolicy(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	local := func(endpoints ...cluster.Endpoint) func(*cluster.Feeds) {
		return func(f *cluster.Feeds) {
			webs(endpoints...)(f)
			web := service("web", vip, tcp(80, 30080), udp(53, 30053))
			web.ExternalLocal = true
			f.Services.Set(web.Key, web)
		}
	}
	c, feeds, _ := n.start(Config{Guard: true}, local(ready(bAddr, "n1"), ready(cAddr, "n2")))
	wants(t, "node port", n.hosts["outside"].answers("tcp", nodeHTTP, 2), "b sees "+outsideAddr)
	wants(t, "cluster IP", n.hosts["a"].answers("tcp", vipHTTP, 2), "b sees "+aAddr+", c sees "+aAddr)
	setSlice(feeds, ready(cAddr, "n2"))
	n.settled(c)
	wants(t, "node port without an endpoint here", n.hosts["outside"].get("tcp", nodeHTTP), "timeout")
	setSlice(feeds)
	n.settled(c)
	wants(t, "node port without any endpoint", n.hosts["outside"].get("tcp", nodeHTTP), "refused")
}

// An endpoint here that is not ready any more keeps its connections. What is new
// hears nothing, so that a load balancer tries another node, and a client the
// same again.
func TestLocalPolicyWhileAnEndpointEnds(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	c, feeds, _ := n.start(Config{Guard: true}, func(f *cluster.Feeds) {
		webs(ready(bAddr, "n1"), ready(cAddr, "n2"))(f)
		web := service("web", vip, tcp(80, 30080))
		web.InternalLocal, web.ExternalLocal = true, true
		f.Services.Set(web.Key, web)
	})
	clients := []struct{ from, to, sees string }{
		{"outside", nodeHTTP, outsideAddr}, {"a", vipHTTP, aAddr}, {"n1", vipHTTP, n1Addr},
	}
	var conns []net.Conn
	for _, x := range clients {
		conn, err := n.hosts[x.from].dial("tcp", x.to)
		if err != nil {
			t.Fatal(err)
		}
		wants(t, "from "+x.from, ask(conn), "b sees "+x.sees)
		conns = append(conns, conn)
	}
	setSlice(feeds, unready(bAddr, "n1"), ready(cAddr, "n2"))
	n.settled(c)
	for i, x := range clients {
		wants(t, "a new connection from "+x.from, n.hosts[x.from].get("tcp", x.to), "timeout")
		wants(t, "the connection from "+x.from, ask(conns[i]), "b sees "+x.sees)
	}
	setSlice(feeds, unready(bAddr, "n1"), unready(cAddr, "n2"))
	n.settled(c)
	for i, x := range clients {
		wants(t, "without a ready endpoint anywhere, from "+x.from, n.hosts[x.from].get("tcp", x.to), "refused")
		wants(t, "the connection from "+x.from, ask(conns[i]), "b sees "+x.sees)
	}
	setSlice(feeds, ready(bAddr, "n1"), ready(cAddr, "n2"))
	n.settled(c)
	for _, x := range clients {
		wants(t, "ready again, from "+x.from, n.hosts[x.from].get("tcp", x.to), "b sees "+x.sees)
	}
}

// Clients of the node reach endpoints through an overlay in UDP, whose packets
// have the mark of what is in them: IPVS must not take these, too.
func TestLocalPolicyInAnOverlay(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	tunnel := link.Tunnel{Kind: link.VXLAN, MTU: 1450, Port: 4789}
	n.overlay(tunnel, "n1", n1Addr, n2Addr, "10.244.2.0/24")
	n.overlay(tunnel, "n2", n2Addr, n1Addr, "10.244.1.0/24")
	n.start(Config{Guard: true}, func(f *cluster.Feeds) {
		webs(ready(cAddr, "n2"))(f)
		web := service("web", vip, tcp(80, 30080), udp(53, 30053))
		web.ExternalLocal = true
		f.Services.Set(web.Key, web)
	})
	for _, x := range []struct{ protocol, to string }{{"tcp", nodeHTTP}, {"udp", nodeDNS}} {
		wants(t, x.protocol+" from the node", n.hosts["n1"].get(x.protocol, x.to), "c sees "+n1Addr)
		wants(t, x.protocol+" from a pod", n.hosts["a"].get(x.protocol, x.to), "c sees "+aAddr)
	}
}

func TestWithoutHairpin(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	n.start(Config{Guard: true}, webs(ready(bAddr, "n1")))
	wants(t, "from b to itself", n.hosts["b"].get("tcp", vipHTTP), "timeout")
	wants(t, "from a", n.hosts["a"].get("tcp", vipHTTP), "b sees "+aAddr)
}

func TestMasqueradeAll(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	n.start(Config{Guard: true, MasqueradeAll: true}, webs(ready(bAddr, "n1"), ready(cAddr, "n2")))
	wants(t, "from a", n.hosts["a"].answers("tcp", vipHTTP, 2), "b sees 10.244.1.1, c sees "+n1Addr)
}

// No endpoints, then one, one that terminates, and none again.
func TestEndpointsComeAndGo(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	a, n1 := n.hosts["a"], n.hosts["n1"]
	c, feeds, _ := n.start(Config{Guard: true}, webs())
	state := func(what, want string) {
		t.Helper()
		n.settled(c)
		for _, from := range []*host{a, n1} {
			got := from.get("tcp", vipHTTP)
			if i := len(want); len(got) > i {
				got = got[:i]
			}
			wants(t, what+", from "+from.name, got, want)
		}
	}
	state("no endpoints", "refused")
	setSlice(feeds, ready(cAddr, "n2"))
	state("one", "c sees")
	conn, err := a.dial("tcp", vipHTTP)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "a connection", ask(conn), "c sees "+aAddr)
	setSlice(feeds, ready(bAddr, "n1"), terminating(cAddr, "n2"))
	state("one ready, one terminates", "b sees")
	wants(t, "the connection to the one that terminates", ask(conn), "c sees "+aAddr)
	setSlice(feeds, terminating(cAddr, "n2"))
	state("one terminates", "c sees")
	setSlice(feeds, unready(cAddr, "n2"))
	state("not ready", "refused")
	wants(t, "the connection to the one not ready", ask(conn), "c sees "+aAddr)
	setSlice(feeds)
	state("none", "refused")
	feeds.Services.Delete(cluster.Key{Namespace: "default", Name: "web"})
	n.settled(c)
	wants(t, "virtual servers", n1.run("ipvsadm", "-Sn"), "")
	wants(t, "local routes", n1.run("ip", "route", "show", "table", "local", "proto", "17"), "")
}

// A client with a fixed source port, as some resolvers have.
func TestDatagramsMoveOn(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	c, feeds, _ := n.start(Config{Guard: true}, webs(ready(cAddr, "n2")))
	for _, from := range []string{"a", "n1"} {
		conn, err := n.hosts[from].dial("udp", vipDNS)
		if err != nil {
			t.Fatal(err)
		}
		wants(t, "before, from "+from, ask(conn)[:6], "c sees")
		setSlice(feeds, ready(bAddr, "n1"))
		n.settled(c)
		movesTo(t, conn, "b sees")
		setSlice(feeds, ready(cAddr, "n2"))
		n.settled(c)
	}
	conn, err := n.hosts["outside"].dial("udp", nodeDNS)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, "masqueraded, before", ask(conn), "c sees "+n1Addr)
	setSlice(feeds, ready(bAddr, "n1"))
	n.settled(c)
	movesTo(t, conn, "b sees "+outsideAddr)
}

// movesTo waits for a flow to get another endpoint: some datagrams may be lost
// with the old one.
func movesTo(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if got = ask(conn); strings.HasPrefix(got, want) {
			return
		}
	}
	t.Errorf("the flow did not move: got %s, want %s", got, want)
}

// Connections from a client that uses its ports again and again are not slower
// than others: with IPVS, those whose predecessor is in TIME_WAIT could wait
// for a second SYN.
func TestPortReuse(t *testing.T) {
	n := newNetwork(t)
	for _, pod := range []string{"b", "c"} {
		n.hosts[pod].hangUp(8080)
	}
	for _, client := range []string{"a", "n1", "outside"} {
		n.hosts[client].run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40039")
	}
	n.start(Config{Guard: true}, webs(ready(bAddr, "n1"), ready(cAddr, "n2")))
	for client, to := range map[string]string{"a": vipHTTP, "n1": vipHTTP, "outside": nodeHTTP} {
		for i := range 200 {
			start := time.Now()
			conn, err := n.hosts[client].dialOnce("tcp", to)
			if err != nil {
				t.Fatalf("%s, connection %d: %v", client, i, err)
			}
			io.Copy(io.Discard, conn)
			conn.Close()
			if took := time.Since(start); took > 900*time.Millisecond {
				t.Errorf("%s, connection %d took %s", client, i, took)
			}
		}
	}
}

// A restart changes nothing and breaks nothing; what was damaged is repaired.
func TestRestart(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	n1 := n.hosts["n1"]
	endpoints := webs(ready(bAddr, "n1"), ready(cAddr, "n2"))
	_, _, stop := n.start(Config{Guard: true}, endpoints)
	var conns []net.Conn
	for range 2 {
		conn, err := n.hosts["a"].dial("tcp", vipHTTP)
		if err != nil {
			t.Fatal(err)
		}
		ask(conn)
		conns = append(conns, conn)
	}
	stop()
	n1.run("ipvsadm", "-A", "-t", "192.168.99.1:80", "-s", "rr") // somebody else's
	n1.run("ipvsadm", "-A", "-t", "10.96.9.9:80", "-s", "rr")    // of a former run
	n1.run("ip", "route", "add", "local", "10.96.9.9", "dev", "lo", "proto", "17")
	before := n1.run("ipset", "save")
	c, _, _ := n.start(Config{Guard: true}, endpoints)
	if got := c.Status().Changes; got != 2 {
		t.Errorf("%d changes, want 2: those that sweep 10.96.9.9 away", got)
	}
	if got := n1.run("ipvsadm", "-Sn"); !strings.Contains(got, "192.168.99.1:80") || strings.Contains(got, "10.96.9.9") {
		t.Errorf("virtual servers of others stay, ours of a former run go:\n%s", got)
	}
	wants(t, "sets", n1.run("ipset", "save"), before)
	for _, conn := range conns {
		if got := ask(conn); got[2:] != "sees "+aAddr {
			t.Errorf("a connection over the restart: %s", got)
		}
	}
	n1.run("ipvsadm", "-C")
	n1.run("ip", "route", "flush", "table", "local", "proto", "17")
	c.queue.Mark(key{step: stepResync})
	n.settled(c)
	wants(t, "after the repair", n.hosts["a"].answers("tcp", vipHTTP, 2), "b sees "+aAddr+", c sees "+aAddr)
	if c.Status().Repairs == 0 {
		t.Error("no repairs counted")
	}
}
