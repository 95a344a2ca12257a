package services

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

func TestRules(t *testing.T) {
	config := config46()
	config.Hairpin = true
	bubble(t, func(t *testing.T, w *world) {
		defer w.start(config, set(n1)).stop()
		for table, want := range map[iptables.Table]string{
			iptables.Filter: `*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-ROUTER-SERVICES - [0:0]
-A INPUT -j KUBE-ROUTER-SERVICES
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-lim dst,dst -m set ! --match-set kube-router-svip-src dst,dst,src -m comment --comment "services for some sources only" -j DROP
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-drop dst,dst -m mark --mark 0x0/0xfffc0000 -m comment --comment "services with endpoints on other nodes only" -j DROP
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-prt dst,dst -m comment --comment "services" -j ACCEPT
-A KUBE-ROUTER-SERVICES -p tcp -m set --match-set kube-router-svip dst -m comment --comment "no such service" -j REJECT --reject-with tcp-reset
-A KUBE-ROUTER-SERVICES ! -p icmp -m set --match-set kube-router-svip dst -m comment --comment "no such service" -j REJECT --reject-with icmp-port-unreachable
COMMIT
`,
			iptables.Mangle: `*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-ROUTER-SVC-MARK - [0:0]
:KUBE-ROUTER-SVC-MARK-OUT - [0:0]
-A PREROUTING -j KUBE-ROUTER-SVC-MARK
-A OUTPUT -j KUBE-ROUTER-SVC-MARK-OUT
-A KUBE-ROUTER-SVC-MARK -m set --match-set kube-router-node-pods src -m comment --comment "pods of this node" -j SET --map-set kube-router-svip-in dst,dst --map-mark
-A KUBE-ROUTER-SVC-MARK-OUT -m comment --comment "this node" -j SET --map-set kube-router-svip-in dst,dst --map-mark
COMMIT
`,
			iptables.NAT: `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-ROUTER-MASQUERADE - [0:0]
-A POSTROUTING -j KUBE-ROUTER-MASQUERADE
-A KUBE-ROUTER-MASQUERADE -m set --match-set kube-router-hairpin dst,dst,src -m comment --comment "pods to themselves" -j MASQUERADE --random-fully
-A KUBE-ROUTER-MASQUERADE -m ipvs --vdir ORIGINAL --vmethod MASQ -m set ! --match-set kube-router-node-pods src -m set ! --match-set kube-router-node-pods dst -m addrtype ! --src-type LOCAL ! --dst-type LOCAL -m comment --comment "neither end is here" -j MASQUERADE --random-fully
COMMIT
`,
		} {
			if d := cmp.Diff(want, w.rules[inet.IPv4].Text(table)); d != "" {
				t.Errorf("IPv4 %s (-want +got):\n%s", table, d)
			}
			want = strings.NewReplacer("kube-router-", "inet6:kube-router-", "! -p icmp", "! -p ipv6-icmp",
				"with icmp-port", "with icmp6-port").Replace(want)
			if d := cmp.Diff(want, w.rules[inet.IPv6].Text(table)); d != "" {
				t.Errorf("IPv6 %s (-want +got):\n%s", table, d)
			}
		}
	})
}

func TestMasqueradeAllRule(t *testing.T) {
	config := config4()
	config.MasqueradeAll = true
	got := masqueradeRules(inet.IPv4, config)
	want := []string{`-m set --match-set kube-router-hairpin dst,dst,src -m comment --comment "pods to themselves" -j MASQUERADE --random-fully`,
		`-m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "all that is forwarded" -j MASQUERADE --random-fully`}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSysctls(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		defer w.start(config46(), set(n1)).stop()
		for name, want := range map[string]string{
			"net/ipv4/vs/conntrack": "1", "net/ipv4/vs/expire_nodest_conn": "1", "net/ipv4/vs/expire_quiescent_template": "1",
			"net/ipv4/vs/conn_reuse_mode": "1", "net/ipv4/conf/all/arp_ignore": "1", "net/ipv4/conf/all/arp_announce": "2",
			"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1",
			"net/ipv6/conf/all/forwarding": "1", "net/bridge/bridge-nf-call-ip6tables": "1",
		} {
			if got, _ := w.sysctl.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	})
	for release, want := range map[string]string{
		"4.19.0": "0", "5.8.18-100.fc31": "0", "5.9.0": "1", "5.10.0-8-amd64": "1", "6.1.0": "1", "": "1",
	} {
		if got := connReuseMode(release); got != want {
			t.Errorf("Linux %s: conn_reuse_mode %s, want %s", release, got, want)
		}
	}
}
