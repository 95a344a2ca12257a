package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// toBlocks lets the backend reach some peers at two ports. A block is written
// as its network, followed by its exceptions.
func toBlocks(peers ...string) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: "production", Name: "allow"}},
		Pods: selects("app=backend"), IsolatesEgress: true,
		Egress: []cluster.PolicyRule{{Ports: []cluster.PolicyPort{
			{Protocol: inet.TCP, Port: 443, End: 443}, {Protocol: inet.TCP, Name: "https"},
		}}},
	}
	for _, text := range peers {
		var networks []netip.Prefix
		for _, network := range strings.Fields(text) {
			networks = append(networks, netip.MustParsePrefix(network))
		}
		block := &cluster.IPBlock{CIDR: networks[0], Except: networks[1:]}
		p.Egress[0].Peers = append(p.Egress[0].Peers, cluster.PolicyPeer{Block: block})
	}
	return p
}

// backend has an address of each family.
func backend() *cluster.Pod {
	pod := newPod("production", "backend-1", "node1", "10.244.1.8", "app=backend")
	pod.IPs = append(pod.IPs, netip.MustParseAddr("fd00:244:0:1::8"))
	return pod
}

// The blocks of a rule that have no exceptions share a set, in each family, be
// they inside each other, written twice, or all there is. One that has
// exceptions keeps its own: what it leaves out another may allow.
func TestKernelStateOfBlocks(t *testing.T) {
	w := newDualWorldWith(besideOurProxy)
	w.pod(backend())
	proxy := newPod("production", "proxy-1", "node2", "10.244.2.5", "app=proxy")
	proxy.Ports = []cluster.ContainerPort{{Name: "https", Protocol: inet.TCP, Port: 8443}}
	w.pod(proxy)
	p := toBlocks(
		"198.51.100.0/24",
		"192.0.2.0/24 192.0.2.128/25",
		"2001:db8:1::/48",
		"192.0.2.192/26",
		"198.51.100.7/32",
		"2001:db8::/32 2001:db8:1::/48",
		"198.51.100.0/24",
		"::/0",
		"10.0.0.0/8 10.1.0.0/16 10.0.0.0/9",
	)
	p.Egress[0].Peers = append(p.Egress[0].Peers, cluster.PolicyPeer{Pods: selects("app=proxy")})
	w.policy(p)
	w.settle(t)
	if diff := cmp.Diff(severalBlocks, trim(w.kernel())); diff != "" {
		t.Errorf("kernel state (-want +got):\n%s", diff)
	}
}

const severalBlocks = `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-NWPLCY-2VRFSUQHJZGO53XR - [0:0]
:KUBE-POD-FW-S32ZQ4KUM3FIVCWC - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-ROUTER-OUTPUT - [0:0]
-A INPUT -j KUBE-ROUTER-INPUT
-A FORWARD -j KUBE-ROUTER-FORWARD
-A OUTPUT -j KUBE-ROUTER-OUTPUT
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -p tcp -m tcp --dport 443 -m set --match-set KUBE-ROUTER-FGQDQK4XDTGVHR5T dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -p tcp -m tcp --dport 443 -m set --match-set KUBE-ROUTER-F7WSTGNUQJRDYZJN dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -p tcp -m tcp --dport 443 -m set --match-set KUBE-ROUTER-WUPPPXBTWC3CEBTJ dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -p tcp -m tcp --dport 443 -m set --match-set KUBE-ROUTER-3U3DUCH3GBUISHZO dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -m set --match-set KUBE-ROUTER-2LMBRCOEDE3RYNBX dst,dst -m set --match-set KUBE-ROUTER-FGQDQK4XDTGVHR5T dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -m set --match-set KUBE-ROUTER-2LMBRCOEDE3RYNBX dst,dst -m set --match-set KUBE-ROUTER-F7WSTGNUQJRDYZJN dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -m set --match-set KUBE-ROUTER-2LMBRCOEDE3RYNBX dst,dst -m set --match-set KUBE-ROUTER-WUPPPXBTWC3CEBTJ dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -m set --match-set KUBE-ROUTER-2LMBRCOEDE3RYNBX dst,dst -m set --match-set KUBE-ROUTER-3U3DUCH3GBUISHZO dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -j MARK --set-xmark 0x0/0x10000
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m comment --comment "policy production/allow" -j KUBE-NWPLCY-2VRFSUQHJZGO53XR
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m mark --mark 0x10000/0x10000 -m comment --comment "allowed by production/allow" -j RETURN
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m comment --comment "denied egress in production by allow" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m comment --comment "denied egress in production by allow" -j REJECT --reject-with icmp-port-unreachable
-A KUBE-ROUTER-FORWARD -m set ! --match-set kube-router-isolated-pods src -m set ! --match-set kube-router-isolated-pods dst -j RETURN
-A KUBE-ROUTER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-FORWARD -s 10.244.1.8/32 -j KUBE-POD-FW-S32ZQ4KUM3FIVCWC
-A KUBE-ROUTER-INPUT -m set ! --match-set kube-router-isolated-pods src -j RETURN
-A KUBE-ROUTER-INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-INPUT -s 10.244.1.8/32 -j KUBE-POD-FW-S32ZQ4KUM3FIVCWC
-A KUBE-ROUTER-OUTPUT -m set ! --match-set kube-router-isolated-pods src -m set ! --match-set kube-router-isolated-pods dst -j RETURN
-A KUBE-ROUTER-OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-OUTPUT -s 10.244.1.8/32 -j KUBE-POD-FW-S32ZQ4KUM3FIVCWC
-A KUBE-ROUTER-OUTPUT -m addrtype --src-type LOCAL -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-NWPLCY-2VRFSUQHJZGO53XR - [0:0]
:KUBE-POD-FW-S32ZQ4KUM3FIVCWC - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
:KUBE-ROUTER-OUTPUT - [0:0]
-A INPUT -j KUBE-ROUTER-INPUT
-A FORWARD -j KUBE-ROUTER-FORWARD
-A OUTPUT -j KUBE-ROUTER-OUTPUT
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -p tcp -m tcp --dport 443 -m set --match-set inet6:KUBE-ROUTER-ROSKTN4HG7HDL dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -p tcp -m tcp --dport 443 -m set --match-set inet6:KUBE-ROUTER-NBZPUHQXL4HX2 dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -p tcp -m tcp --dport 443 -m set --match-set inet6:KUBE-ROUTER-3U3DUCH3GBUIS dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -m set --match-set inet6:KUBE-ROUTER-2LMBRCOEDE3RY dst,dst -m set --match-set inet6:KUBE-ROUTER-ROSKTN4HG7HDL dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -m set --match-set inet6:KUBE-ROUTER-2LMBRCOEDE3RY dst,dst -m set --match-set inet6:KUBE-ROUTER-NBZPUHQXL4HX2 dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-NWPLCY-2VRFSUQHJZGO53XR -m set --match-set inet6:KUBE-ROUTER-2LMBRCOEDE3RY dst,dst -m set --match-set inet6:KUBE-ROUTER-3U3DUCH3GBUIS dst -j MARK --set-xmark 0x10000/0x10000
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -j MARK --set-xmark 0x0/0x10000
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m comment --comment "policy production/allow" -j KUBE-NWPLCY-2VRFSUQHJZGO53XR
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m mark --mark 0x10000/0x10000 -m comment --comment "allowed by production/allow" -j RETURN
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m comment --comment "denied egress in production by allow" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100
-A KUBE-POD-FW-S32ZQ4KUM3FIVCWC -m comment --comment "denied egress in production by allow" -j REJECT --reject-with icmp6-port-unreachable
-A KUBE-ROUTER-FORWARD -m set ! --match-set inet6:kube-router-isolated-pods src -m set ! --match-set inet6:kube-router-isolated-pods dst -j RETURN
-A KUBE-ROUTER-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN
-A KUBE-ROUTER-FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j RETURN
-A KUBE-ROUTER-FORWARD -s fd00:244:0:1::8/128 -j KUBE-POD-FW-S32ZQ4KUM3FIVCWC
-A KUBE-ROUTER-INPUT -m set ! --match-set inet6:kube-router-isolated-pods src -j RETURN
-A KUBE-ROUTER-INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN
-A KUBE-ROUTER-INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j RETURN
-A KUBE-ROUTER-INPUT -s fd00:244:0:1::8/128 -j KUBE-POD-FW-S32ZQ4KUM3FIVCWC
-A KUBE-ROUTER-OUTPUT -m set ! --match-set inet6:kube-router-isolated-pods src -m set ! --match-set inet6:kube-router-isolated-pods dst -j RETURN
-A KUBE-ROUTER-OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
-A KUBE-ROUTER-OUTPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN
-A KUBE-ROUTER-OUTPUT -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j RETURN
-A KUBE-ROUTER-OUTPUT -s fd00:244:0:1::8/128 -j KUBE-POD-FW-S32ZQ4KUM3FIVCWC
-A KUBE-ROUTER-OUTPUT -m addrtype --src-type LOCAL -j RETURN
COMMIT
create KUBE-ROUTER-2LMBRCOEDE3RYNBX hash:ip,port family inet maxelem 1048576
add KUBE-ROUTER-2LMBRCOEDE3RYNBX 10.244.2.5,tcp:8443
create KUBE-ROUTER-3U3DUCH3GBUISHZO hash:ip family inet maxelem 1048576
add KUBE-ROUTER-3U3DUCH3GBUISHZO 10.244.2.5
create KUBE-ROUTER-F7WSTGNUQJRDYZJN hash:net family inet maxelem 1048576
add KUBE-ROUTER-F7WSTGNUQJRDYZJN 10.0.0.0/8
add KUBE-ROUTER-F7WSTGNUQJRDYZJN 10.0.0.0/9 nomatch
add KUBE-ROUTER-F7WSTGNUQJRDYZJN 10.1.0.0/16 nomatch
create KUBE-ROUTER-FGQDQK4XDTGVHR5T hash:net family inet maxelem 1048576
add KUBE-ROUTER-FGQDQK4XDTGVHR5T 192.0.2.0/24
add KUBE-ROUTER-FGQDQK4XDTGVHR5T 192.0.2.128/25 nomatch
create KUBE-ROUTER-WUPPPXBTWC3CEBTJ hash:net family inet maxelem 1048576
add KUBE-ROUTER-WUPPPXBTWC3CEBTJ 192.0.2.192/26
add KUBE-ROUTER-WUPPPXBTWC3CEBTJ 198.51.100.0/24
add KUBE-ROUTER-WUPPPXBTWC3CEBTJ 198.51.100.7
create inet6:KUBE-ROUTER-2LMBRCOEDE3RY hash:ip,port family inet6 maxelem 1048576
create inet6:KUBE-ROUTER-3U3DUCH3GBUIS hash:ip family inet6 maxelem 1048576
create inet6:KUBE-ROUTER-NBZPUHQXL4HX2 hash:net family inet6 maxelem 1048576
add inet6:KUBE-ROUTER-NBZPUHQXL4HX2 2001:db8:1::/48
add inet6:KUBE-ROUTER-NBZPUHQXL4HX2 8000::/1
add inet6:KUBE-ROUTER-NBZPUHQXL4HX2 ::/1
create inet6:KUBE-ROUTER-ROSKTN4HG7HDL hash:net family inet6 maxelem 1048576
add inet6:KUBE-ROUTER-ROSKTN4HG7HDL 2001:db8:1::/48 nomatch
add inet6:KUBE-ROUTER-ROSKTN4HG7HDL 2001:db8::/32
create inet6:kube-router-isolated-pods hash:ip family inet6 maxelem 1048576
add inet6:kube-router-isolated-pods fd00:244:0:1::8
create inet6:kube-router-local-pods hash:ip family inet6 maxelem 1048576
add inet6:kube-router-local-pods fd00:244:0:1::8
create kube-router-isolated-pods hash:ip family inet maxelem 1048576
add kube-router-isolated-pods 10.244.1.8
create kube-router-local-pods hash:ip family inet maxelem 1048576
add kube-router-local-pods 10.244.1.8`

// However many blocks a rule has, it costs a set, and a rule for each port. A
// change of the list puts another set into these rules, and the former one goes;
// the same list in another order is no change.
func TestManyBlocks(t *testing.T) {
	w := newWorld()
	w.pod(backend())
	var networks []string
	expect := func(restores int) {
		t.Helper()
		_, before := w.rules.Calls()
		w.policy(toBlocks(networks...))
		w.settle(t)
		if _, now := w.rules.Calls(); now-before != restores {
			t.Errorf("iptables-restore ran %d times, want %d", now-before, restores)
		}
		kernel := w.kernel()
		for what, want := range map[string]int{"-A " + policyPrefix: 2, "hash:net": 1, ".0/24\n": len(networks)} {
			if got := strings.Count(kernel, what); got != want {
				t.Errorf("%d of %q, want %d", got, what, want)
			}
		}
	}
	for i := range 2000 {
		networks = append(networks, fmt.Sprintf("20.%d.%d.0/24", i/256, i%256))
	}
	expect(1)
	networks = append(networks, "30.0.0.0/24")
	expect(1)
	slices.Reverse(networks)
	expect(0)
}
