package services

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
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
-A KUBE-ROUTER-SERVICES -m set --match-set kube-router-svip-drop dst,dst -m mark --mark 0x0/0xfffc0000 -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment "services with endpoints on other nodes only" -j DROP
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
:KUBE-ROUTER-SVC-UNMARK - [0:0]
-A PREROUTING -j KUBE-ROUTER-SVC-MARK
-A OUTPUT -j KUBE-ROUTER-SVC-MARK-OUT
-A POSTROUTING -j KUBE-ROUTER-SVC-UNMARK
-A KUBE-ROUTER-SVC-MARK -m set --match-set kube-router-node-pods src -m comment --comment "pods of this node" -j SET --map-set kube-router-svip-in dst,dst --map-mark
-A KUBE-ROUTER-SVC-MARK-OUT -m set --match-set kube-router-svip-lim dst,dst -m set ! --match-set kube-router-svip-src dst,dst,src -m comment --comment "services for some sources only" -j DROP
-A KUBE-ROUTER-SVC-MARK-OUT -m comment --comment "this node" -j SET --map-set kube-router-svip-in dst,dst --map-mark
-A KUBE-ROUTER-SVC-MARK-OUT -m set --match-set kube-router-svip-drop dst,dst -m mark --mark 0x0/0xfffc0000 -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment "services with endpoints on other nodes only" -j DROP
-A KUBE-ROUTER-SVC-UNMARK -m ipvs --ipvs -m mark ! --mark 0x0/0xfffc0000 -m comment --comment "once is enough" -j MARK --set-xmark 0x0/0xfffc0000
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

// What direct server return needs is there with the first Service that asks
// for it, and gone with the last.
func TestDirectRules(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.start(config4(), set(n1))
		defer r.stop()
		without := w.rules[inet.IPv4].Text(iptables.Filter) + w.rules[inet.IPv4].Text(iptables.Mangle)
		web := annotated(service("web", "10.96.0.10", tcp(80, 0)), "service.dsr", "tunnel")
		r.happen(set(web, slice("web", 8080, ready("10.244.1.2", "n1"))))
		with := w.rules[inet.IPv4].Text(iptables.Filter) + w.rules[inet.IPv4].Text(iptables.Mangle)
		var added []string
		for line := range strings.Lines(with) {
			if strings.HasPrefix(line, "-A") && !strings.Contains(without, line) {
				added = append(added, strings.TrimSpace(line))
			}
		}
		want := []string{
			`-A FORWARD -j KUBE-ROUTER-SVC-FORWARD`,
			`-A KUBE-ROUTER-SERVICES -p 4 -m set ! --match-set kube-router-svip-nodes src -m comment --comment "tunnels are for nodes" -j DROP`,
			`-A KUBE-ROUTER-SERVICES -i tunl0 -m mark --mark 0x0/0xfffc0000 -m comment --comment "tunnels are for services" -j DROP`,
			`-A KUBE-ROUTER-SVC-FORWARD -i tunl0 -m comment --comment "tunnels are for services" -j DROP`,
			`-A POSTROUTING -j KUBE-ROUTER-SVC-MSS`,
			`-A KUBE-ROUTER-SVC-MARK -i tunl0 -m comment --comment "direct server return" -j SET --map-set kube-router-svip-tun dst,dst --map-mark`,
			`-A KUBE-ROUTER-SVC-MARK -i kube-tun-ipip -m comment --comment "direct server return" -j SET --map-set kube-router-svip-tun dst,dst --map-mark`,
			`-A KUBE-ROUTER-SVC-MSS -p tcp -m tcp --tcp-flags SYN,RST SYN -m set --match-set kube-router-svip-tun src,src -m comment --comment "room for the tunnel" -j TCPMSS --set-mss 1440`,
		}
		if d := cmp.Diff(want, added); d != "" {
			t.Errorf("rules (-want +got):\n%s", d)
		}
		for name, want := range map[string]string{
			"all/rp_filter": "0", "tunl0/rp_filter": "0", "eth0/rp_filter": "2", "eth0/accept_local": "1", "all/accept_local": "0",
		} {
			if got, _ := w.sysctl.Get("net/ipv4/conf/" + name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if !strings.Contains(w.links.String(), "tunl0 ipip mtu 1480 up") {
			t.Errorf("links:\n%s", w.links)
		}
		r.happen(gone(web))
		if after := w.rules[inet.IPv4].Text(iptables.Filter) + w.rules[inet.IPv4].Text(iptables.Mangle); after != without {
			t.Errorf("left behind (-want +got):\n%s", cmp.Diff(without, after))
		}
		if !strings.Contains(w.links.String(), "tunl0 ipip mtu 1480 down") {
			t.Errorf("links:\n%s", w.links)
		}
	})
}

// The checks of source addresses are again as they were, as soon as no Service
// needs them loose; not while an overlay does, nor what somebody else has set.
func TestDirectReturnPutsSysctlsBack(t *testing.T) {
	for _, overlay := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			w.before = record.Open(filepath.Join(t.TempDir(), "before.json"), slog.New(slog.DiscardHandler))
			w.links.AddLink("eth1", 1500, netip.MustParsePrefix("172.16.0.1/24"))
			values := map[string]string{"kernel/osrelease": "6.1.0-40-amd64"}
			for _, p := range parameters([]inet.Family{inet.IPv4}, "6.1.0") {
				values[p.name] = "0"
			}
			for _, link := range []string{"all", "tunl0", "eth0", "eth1", "kube-tun-vxlan"} {
				if link != "kube-tun-vxlan" || overlay {
					values[conf(link, "rp_filter")], values[conf(link, "accept_local")] = "1", "0"
				}
			}
			w.sysctl = sysctl.NewFake(values)
			config := config4()
			config.SyncPeriod = time.Minute
			web := annotated(service("web", "10.96.0.10", tcp(80, 0)), "service.dsr", "tunnel")
			r := w.start(config, set(n1, web, slice("web", 8080, ready("10.244.1.2", "n1"))))
			defer r.stop()
			w.sysctl.Set(conf("eth1", "rp_filter"), "0")
			r.happen(gone(web))
			want := map[string]string{
				"all/rp_filter": "1", "tunl0/rp_filter": "1", "eth0/rp_filter": "1", "eth0/accept_local": "0", "eth1/rp_filter": "0",
			}
			if overlay {
				want = map[string]string{"all/rp_filter": "0", "eth0/rp_filter": "2", "eth0/accept_local": "1"}
			}
			for name, want := range want {
				if got, _ := w.sysctl.Get("net/ipv4/conf/" + name); got != want {
					t.Errorf("overlay %t: %s is %q, want %q", overlay, name, got, want)
				}
			}
			if got, _ := w.sysctl.Get("net/ipv4/ip_forward"); got != "1" {
				t.Error("what Services need without direct return was put back as well")
			}
			if entries, _ := w.before.Entries("sysctl net/ipv4/ip_forward"); len(entries) == 0 {
				t.Error("the record of that is lost")
			}
		})
	}
}

// The size that the rules tell clients follows the link between nodes, and a
// restart leaves it as it is.
func TestDirectRulesAfterRestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.links.DelLink("eth0")
		w.links.AddLink("eth0", 1450, netip.MustParsePrefix("192.168.7.11/24"))
		web := annotated(service("web", "10.96.0.10", tcp(80, 0)), "service.dsr", "tunnel")
		events := []event{set(n1, web, slice("web", 8080, ready("10.244.1.2", "n1")))}
		w.start(config4(), events...).stop()
		before, changes := w.rules[inet.IPv4].Text(iptables.Mangle), w.changes()
		if !strings.Contains(before, "--set-mss 1390") {
			t.Errorf("not the link's size:\n%s", before)
		}
		w.start(config4(), events...).stop()
		if after := w.rules[inet.IPv4].Text(iptables.Mangle); after != before {
			t.Errorf("a restart changed the rules (-before +after):\n%s", cmp.Diff(before, after))
		}
		if after := w.changes(); after != changes {
			t.Errorf("a restart made changes:\nwas %s\nis  %s", changes, after)
		}
	})
}

func TestUnassignedClusterIPsAreRefused(t *testing.T) {
	config := config46()
	config.RejectUnassigned = true
	want := []string{`-d 10.96.0.0/12 -m set ! --match-set kube-router-svip dst -m comment --comment "no such cluster IP" -j REJECT --reject-with icmp-port-unreachable`}
	if d := cmp.Diff(want, unassignedRules(inet.IPv4, config)); d != "" {
		t.Error(d)
	}
	config.RejectUnassigned = false
	if rules := unassignedRules(inet.IPv4, config); rules != nil {
		t.Errorf("the range was guessed, and still: %q", rules)
	}
}

// The ports of the Pods' bridge reflect as soon as an endpoint behind them may
// meet itself.
func TestHairpinPorts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.links.AddLink("kube-bridge", 1500, netip.MustParsePrefix("10.244.1.1/24"))
		w.links.AddLink("veth1", 1500)
		w.links.AddPort("kube-bridge", "veth1")
		web := service("web", "10.96.0.10", tcp(80, 0))
		r := w.start(config4(), set(n1, web, slice("web", 8080, ready("10.244.1.2", "n1"))))
		defer r.stop()
		if w.links.Hairpin("veth1") {
			t.Error("a port reflects, and no Service asked for it")
		}
		r.happen(set(annotated(service("web", "10.96.0.10", tcp(80, 0)), "service.hairpin", "")))
		if !w.links.Hairpin("veth1") {
			t.Error("the port of an endpoint that may meet itself does not reflect")
		}
	})
}

func TestNodePortsEverywhere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.NodePortsEverywhere = true
		config.Predecessors = []string{"kube-ipvs0"}
		w.links.AddLink("eth1", 1500, netip.MustParsePrefix("172.16.0.1/24"), netip.MustParsePrefix("169.254.0.1/16"))
		w.links.AddLink("kube-ipvs0", 1500, netip.MustParsePrefix("10.96.0.10/32"))
		r := w.start(config, set(n1, service("web", "10.96.0.10", tcp(80, 30080)), slice("web", 8080, ready("10.244.1.2", "n1"))))
		defer r.stop()
		listening := func() string {
			var list []string
			for line := range strings.Lines(w.ipvs.String()) {
				if strings.HasPrefix(line, "-A") {
					list = append(list, strings.Fields(line)[2])
				}
			}
			return strings.Join(list, " ")
		}
		if got := listening(); got != "10.96.0.10:80 172.16.0.1:30080 192.168.7.11:30080" {
			t.Errorf("served at %s", got)
		}
		w.links.AddLink("eth1", 1500, netip.MustParsePrefix("172.16.0.2/24"))
		w.routes.AddLink("eth1", netip.MustParsePrefix("172.16.0.2/24")) // wakes who watches
		synctest.Wait()
		if got := listening(); got != "10.96.0.10:80 172.16.0.1:30080 172.16.0.2:30080 192.168.7.11:30080" {
			t.Errorf("with a new address served at %s", got)
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
