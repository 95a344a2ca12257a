package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// allowFrontend lets the frontend, and one network, reach the backend.
func allowFrontend() *cluster.NetworkPolicy {
	return &cluster.NetworkPolicy{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: "production", Name: "allow-frontend"}},
		Pods: selects("app=backend"), IsolatesIngress: true, IsolatesEgress: true,
		Ingress: []cluster.PolicyRule{{
			Peers: []cluster.PolicyPeer{
				{Pods: selects("app=frontend")},
				{Block: &cluster.IPBlock{
					CIDR:   netip.MustParsePrefix("192.168.0.0/16"),
					Except: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")},
				}},
			},
			Ports: []cluster.PolicyPort{{Protocol: inet.TCP, Port: 8080, End: 8080}},
		}},
		Egress: []cluster.PolicyRule{{AnyPeer: true, Ports: []cluster.PolicyPort{{Protocol: inet.UDP, Port: 53, End: 53}}}},
	}
}

// The whole kernel state of the default deny and the allow policy of the
// manual. The frontend is on another node: it is an entry of a set.
func TestKernelStateOfTwoPolicies(t *testing.T) {
	w := newWorld()
	w.namespace(newNamespace("production", ""))
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.pod(newPod("production", "frontend-1", "node2", "10.244.2.5", "app=frontend"))
	w.policy(denyIngress("production"))
	w.policy(allowFrontend())
	w.settle(t)
	if diff := cmp.Diff(twoPolicies, trim(w.kernel())); diff != "" {
		t.Errorf("kernel state (-want +got):\n%s", diff)
	}
}

const twoPolicies = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-NWPLCY-3NI3WVP6AOCFFXRM - [0:0]
:KUBE-NWPLCY-BNZ2XMTOX2FM5YQN - [0:0]
:KUBE-NWPLCY-GP4NBR66QLGONRV3 - [0:0]
:KUBE-POD-FW-6AHLDV7RCBGOCWAA - [0:0]
:KUBE-POD-FW-GDUJBCCUJNLGBZ5Y - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-ROUTER-OUTPUT - [0:0]
-A INPUT -j KUBE-ROUTER-INPUT
-A FORWARD -j KUBE-ROUTER-FORWARD
-A OUTPUT -j KUBE-ROUTER-OUTPUT
-A KUBE-NWPLCY-3NI3WVP6AOCFFXRM -p udp -m udp --dport 53 -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-GP4NBR66QLGONRV3 -p tcp -m tcp --dport 8080 -m set --match-set KUBE-ROUTER-XOUDGKVHKMMIYCKO src -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-GP4NBR66QLGONRV3 -p tcp -m tcp --dport 8080 -m set --match-set KUBE-ROUTER-2NVQ3EZIXB22RES2 src -j MARK --set-xmark 0x10000/0x10000
-A KUBE-POD-FW-6AHLDV7RCBGOCWAA -j MARK --set-xmark 0x0/0x10000
-A KUBE-POD-FW-6AHLDV7RCBGOCWAA -m comment --comment "policy production/allow-frontend" -j KUBE-NWPLCY-3NI3WVP6AOCFFXRM
-A KUBE-POD-FW-6AHLDV7RCBGOCWAA -m mark --mark 0x10000/0x10000 -m comment --comment "allowed by production/allow-frontend" -j RETURN
-A KUBE-POD-FW-6AHLDV7RCBGOCWAA -m comment --comment "denied egress in production by allow-frontend" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100
-A KUBE-POD-FW-6AHLDV7RCBGOCWAA -m comment --comment "denied egress in production by allow-frontend" -j REJECT --reject-with icmp-port-unreachable
-A KUBE-POD-FW-GDUJBCCUJNLGBZ5Y -j MARK --set-xmark 0x0/0x10000
-A KUBE-POD-FW-GDUJBCCUJNLGBZ5Y -m comment --comment "policy production/allow-frontend" -j KUBE-NWPLCY-GP4NBR66QLGONRV3
-A KUBE-POD-FW-GDUJBCCUJNLGBZ5Y -m mark --mark 0x10000/0x10000 -m comment --comment "allowed by production/allow-frontend" -j RETURN
-A KUBE-POD-FW-GDUJBCCUJNLGBZ5Y -m comment --comment "policy production/deny" -j KUBE-NWPLCY-BNZ2XMTOX2FM5YQN
-A KUBE-POD-FW-GDUJBCCUJNLGBZ5Y -m mark --mark 0x10000/0x10000 -m comment --comment "allowed by production/deny" -j RETURN
-A KUBE-POD-FW-GDUJBCCUJNLGBZ5Y -m comment --comment "denied ingress in production by allow-frontend, deny" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100
-A KUBE-POD-FW-GDUJBCCUJNLGBZ5Y -m comment --comment "denied ingress in production by allow-frontend, deny" -j REJECT --reject-with icmp-port-unreachable
-A KUBE-ROUTER-FORWARD -m set ! --match-set kube-router-isolated-pods src -m set ! --match-set kube-router-isolated-pods dst -j RETURN
-A KUBE-ROUTER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-FORWARD -s 10.244.1.8/32 -j KUBE-POD-FW-6AHLDV7RCBGOCWAA
-A KUBE-ROUTER-FORWARD -d 10.244.1.8/32 -j KUBE-POD-FW-GDUJBCCUJNLGBZ5Y
-A KUBE-ROUTER-INPUT -m set ! --match-set kube-router-isolated-pods src -j RETURN
-A KUBE-ROUTER-INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-INPUT -d 10.96.0.0/12 -m comment --comment "service addresses" -j RETURN
-A KUBE-ROUTER-INPUT -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30000:32767 -m comment --comment "node ports" -j RETURN
-A KUBE-ROUTER-INPUT -p udp -m addrtype --dst-type LOCAL -m udp --dport 30000:32767 -m comment --comment "node ports" -j RETURN
-A KUBE-ROUTER-INPUT -p sctp -m addrtype --dst-type LOCAL -m sctp --dport 30000:32767 -m comment --comment "node ports" -j RETURN
-A KUBE-ROUTER-INPUT -s 10.244.1.8/32 -j KUBE-POD-FW-6AHLDV7RCBGOCWAA
-A KUBE-ROUTER-OUTPUT -m set ! --match-set kube-router-isolated-pods src -m set ! --match-set kube-router-isolated-pods dst -j RETURN
-A KUBE-ROUTER-OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-OUTPUT -s 10.244.1.8/32 -j KUBE-POD-FW-6AHLDV7RCBGOCWAA
-A KUBE-ROUTER-OUTPUT -m addrtype --src-type LOCAL -j RETURN
-A KUBE-ROUTER-OUTPUT -d 10.244.1.8/32 -j KUBE-POD-FW-GDUJBCCUJNLGBZ5Y
COMMIT
create KUBE-ROUTER-2NVQ3EZIXB22RES2 hash:ip family inet maxelem 1048576
add KUBE-ROUTER-2NVQ3EZIXB22RES2 10.244.2.5
create KUBE-ROUTER-XOUDGKVHKMMIYCKO hash:net family inet maxelem 1048576
add KUBE-ROUTER-XOUDGKVHKMMIYCKO 192.168.0.0/16
add KUBE-ROUTER-XOUDGKVHKMMIYCKO 192.168.7.0/24 nomatch
create kube-router-isolated-pods hash:ip family inet maxelem 1048576
add kube-router-isolated-pods 10.244.1.8
create kube-router-local-pods hash:ip family inet maxelem 1048576
add kube-router-local-pods 10.244.1.8`

// Beside our own service proxy no port and no address of the host is open to
// isolated Pods, whatever ranges there are.
func TestServicesBesideOurProxy(t *testing.T) {
	w := newWorldWith(besideOurProxy)
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.policy(allowFrontend())
	w.settle(t)
	kernel := w.kernel()
	if strings.Contains(kernel, "30000") || strings.Contains(kernel, "sctp") || strings.Contains(kernel, "service addresses") {
		t.Errorf("the kernel holds\n%s", kernel)
	}
	p := packet{src: netip.MustParseAddr("10.244.1.8"), dst: nodeAddrs["node1"][0], protocol: inet.TCP, port: 31000, toHost: true}
	if w.tracer().passes("INPUT", p) {
		t.Error("a program of the host at a port of that range is reached")
	}
	p.dst = netip.MustParseAddr("10.96.0.10")
	if w.tracer().passes("INPUT", p) {
		t.Error("a program of the host at an address of that range is reached")
	}
}

// Beside another proxy, which may have Services' addresses on the host, those of
// all ranges pass, each in its family; elsewhere they are the world's.
func TestServiceRangesBesideAnotherProxy(t *testing.T) {
	w := newWorldWith(func(c *Config) {
		c.ExternalRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/64")}
	})
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.policy(allowFrontend())
	w.settle(t)
	p := packet{src: netip.MustParseAddr("10.244.1.8"), protocol: inet.TCP, port: 443}
	for dst, want := range map[string]bool{"10.96.0.10": true, "203.0.113.7": true, "198.51.100.7": false} {
		p.dst = netip.MustParseAddr(dst)
		p.toHost = true
		if got := w.tracer().passes("INPUT", p); got != want {
			t.Errorf("to %s of the host: passes %v, want %v", dst, got, want)
		}
		p.toHost = false
		if w.tracer().passes("FORWARD", p) {
			t.Errorf("to %s elsewhere it passes", dst)
		}
	}
	if strings.Contains(w.kernel(), "2001:db8") {
		t.Errorf("IPv4 has ranges of IPv6:\n%s", w.kernel())
	}
	v := &verdict{state: w.c.state, config: w.c.config, host: map[netip.Addr]bool{netip.MustParseAddr("203.0.113.7"): true}, isolating: map[cluster.Key][directions][]cluster.Key{}}
	for dst, want := range map[string]bool{"203.0.113.7": true, "203.0.113.8": false} {
		if got := v.allows(connection{inet.TCP, p.src, netip.MustParseAddr(dst), 443}); got != want {
			t.Errorf("established to %s: allowed %v, want %v", dst, got, want)
		}
	}
}

// A Pod of another node comes, changes its labels and goes: sets follow, and
// iptables-restore is not run.
func TestRemotePodsChangeNoRule(t *testing.T) {
	w := newWorld()
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.policy(allowFrontend())
	w.settle(t)
	_, restores := w.rules.Calls()
	for _, step := range []struct {
		labels string // of the Pod, or "-" to delete it
		want   bool   // in the set
	}{{"app=frontend", true}, {"app=other", false}, {"app=frontend", true}, {"-", false}} {
		pod := newPod("production", "frontend-9", "node2", "10.244.2.9", "")
		if step.labels == "-" {
			w.feeds.Pods.Delete(pod.Key)
		} else {
			w.pod(newPod("production", "frontend-9", "node2", "10.244.2.9", step.labels))
		}
		w.settle(t)
		if got := strings.Contains(w.sets.Save(), " 10.244.2.9"); got != step.want {
			t.Errorf("labels %q: in the set %v, want %v", step.labels, got, step.want)
		}
	}
	if _, now := w.rules.Calls(); now != restores {
		t.Errorf("iptables-restore ran %d times", now-restores)
	}
}

// Finished Pods and those on the host's network are neither isolated nor peers.
func TestPodsWithoutAnAddressOfTheirOwn(t *testing.T) {
	w := newWorld()
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	done := newPod("production", "done", "node1", "10.244.1.9", "app=frontend")
	done.Finished = true
	host := newPod("production", "host", "node1", "192.168.1.10", "app=frontend")
	host.HostNetwork = true
	w.pod(done)
	w.pod(host)
	w.pod(newPod("production", "pending", "node1", "", "app=frontend"))
	w.policy(allowFrontend())
	w.settle(t)
	for _, ip := range []string{"10.244.1.9", "192.168.1.10"} {
		if strings.Contains(w.kernel(), ip) {
			t.Errorf("%s is in\n%s", ip, w.kernel())
		}
	}
}

// Traffic that is part of a connection, or from the node itself, passes.
func TestWhatAlwaysPasses(t *testing.T) {
	w := newWorld()
	w.pod(newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend"))
	w.policy(denyIngress("production"))
	w.settle(t)
	tr := w.tracer()
	in := packet{src: netip.MustParseAddr("10.244.2.5"), dst: netip.MustParseAddr("10.244.1.8"), protocol: inet.TCP, port: 80}
	for _, chain := range []string{"FORWARD", "OUTPUT"} {
		if tr.passes(chain, in) {
			t.Errorf("%s: a new connection passes", chain)
		}
		reply := in
		reply.established = true
		if !tr.passes(chain, reply) {
			t.Errorf("%s: an established connection does not pass", chain)
		}
	}
	probe := in
	probe.src, probe.local = netip.MustParseAddr("192.168.1.10"), true
	if !tr.passes("OUTPUT", probe) {
		t.Error("the kubelet's probe does not pass")
	}
}
