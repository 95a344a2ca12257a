package cleanup

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/nft"
)

// kubeProxy is one that runs where it has signs, on a host whose processes can
// be seen unless it hides.
type kubeProxy struct {
	signs []string
	hides bool
}

func (k kubeProxy) Running(context.Context) []string { return k.signs }
func (k kubeProxy) SeesProcesses() bool              { return !k.hides }

// proxyRules is what kube-proxy leaves of the mode iptables, beside the
// kubelet's chains.
const proxyRules = `*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE
-A KUBE-SEP-NPX46M4PTMTKRN6Y -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-NPX46M4PTMTKRN6Y -m comment --comment "default/web -> 10.244.1.2:8080" -j KUBE-SEP-NPX46M4PTMTKRN6Y
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*mangle
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
`

// proxied adds to a world with an agent what kube-proxy left in all its modes.
func (w *world) proxied() *Node {
	w.t.Helper()
	w.must(w.rules.Foreign(proxyRules))
	w.links.AddDummy("kube-ipvs0", prefix("10.96.0.1/32"), prefix("10.96.0.10/32"), prefix("10.96.9.9/32"))
	spec := ipset.Spec{Type: ipset.HashIPPort, Family: inet.IPv4}
	w.set("KUBE-CLUSTER-IP", spec, ipset.IPPort(inet.TCP, netip.MustParseAddrPort("10.96.0.10:80")))
	w.set("KUBE-CLUSTER-IP-MINE", spec, ipset.IPPort(inet.TCP, netip.MustParseAddrPort("10.96.0.10:80")))
	for _, id := range []string{"10.96.0.10:80", "192.168.66.11:31000", "192.168.66.11:8443", "192.168.66.99:31000"} {
		w.server(tcp(id))
	}
	n := w.node()
	n.NodePorts = PortRange{30000, 32767}
	n.Tables = &nft.Fake{All: []nft.Table{{Family: "ip", Name: "filter"}, {Family: "ip", Name: "kube-proxy"}, {Family: "ip6", Name: "kube-proxy"}}}
	return n
}

const leftOfKubeProxy = `removed iptables (nf_tables, IPv4, nat) chains KUBE-MARK-MASQ, KUBE-NODEPORTS, KUBE-POSTROUTING, KUBE-PROXY-CANARY, KUBE-SERVICES, KUBE-SEP-* (1), KUBE-SVC-* (2), and 3 rules that lead there
removed iptables (nf_tables, IPv4, filter) chains KUBE-EXTERNAL-SERVICES, KUBE-FORWARD, KUBE-PROXY-CANARY, KUBE-PROXY-FIREWALL, KUBE-SERVICES, and 4 rules that lead there
removed iptables (nf_tables, IPv4, mangle) chains KUBE-PROXY-CANARY
removed nftables table ip kube-proxy
removed nftables table ip6 kube-proxy
removed virtual server -t 10.96.0.10:80
removed virtual server -t 192.168.66.11:31000
removed IP set KUBE-CLUSTER-IP
removed dummy kube-ipvs0
`

// Of kube-proxy nothing is left, and of everybody else everything.
func TestRemoveKubeProxy(t *testing.T) {
	w := newWorld(t)
	before := w.state()
	n := w.proxied()
	with := w.state()
	// Its own of other kinds, which are not compared below, and the kubelet's.
	for _, id := range []string{"192.168.66.11:8443", "192.168.66.99:31000"} {
		defer func() {
			if _, there, _ := w.ipvs.Get(tcp(id)); !there {
				t.Errorf("%s has gone", id)
			}
		}()
	}
	var out strings.Builder
	n.removeKubeProxy(t.Context(), &report{out: &out, dry: true})
	if diff := cmp.Diff(strings.ReplaceAll(leftOfKubeProxy, "removed ", "would remove "), out.String()); diff != "" {
		t.Errorf("a dry run says (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(with, w.state()); diff != "" {
		t.Errorf("a dry run has changed something:\n%s", diff)
	}
	out.Reset()
	r := &report{out: &out}
	n.removeKubeProxy(t.Context(), r)
	if diff := cmp.Diff(leftOfKubeProxy, out.String()); diff != "" || r.unsolved > 0 {
		t.Errorf("it says (-want +got):\n%s", diff)
	}
	lines := func(text string) string {
		var kept []string
		for line := range strings.Lines(text) {
			for _, other := range []string{"KUBE-CLUSTER-IP-MINE", ":8443", "192.168.66.99", "KUBE-FIREWALL"} {
				if strings.Contains(line, other) {
					line = ""
				}
			}
			kept = append(kept, line)
		}
		return strings.Join(kept, "")
	}
	if diff := cmp.Diff(lines(before), lines(w.state())); diff != "" {
		t.Errorf("the node is another one (-before +after):\n%s", diff)
	}
	for _, kubelets := range []string{":KUBE-KUBELET-CANARY", ":KUBE-MARK-DROP", "-A KUBE-MARK-DROP -j MARK"} {
		if !strings.Contains(w.rules.Text(iptables.NAT), kubelets) {
			t.Errorf("the kubelet's %s has gone", kubelets)
		}
	}
	out.Reset()
	n.removeKubeProxy(t.Context(), &report{out: &out})
	if out.String() != "" {
		t.Errorf("again:\n%s", out.String())
	}
}

// What others' rules lead to stays, and works.
func TestOthersUseMarks(t *testing.T) {
	w := newWorld(t)
	n := w.proxied()
	w.must(w.rules.Foreign("*nat\n:CNI-HOSTPORT-SETMARK - [0:0]\n-A CNI-HOSTPORT-SETMARK -j KUBE-MARK-MASQ\nCOMMIT\n"))
	var out strings.Builder
	n.removeKubeProxy(t.Context(), &report{out: &out})
	if want := "kept iptables (nf_tables, IPv4, nat) chain KUBE-MARK-MASQ: rules of chain CNI-HOSTPORT-SETMARK lead to it, which is not kube-proxy's\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("it says\n%s", out.String())
	}
	for _, rule := range []string{"-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000", "SNAT\" -j MASQUERADE", "-j KUBE-POSTROUTING"} {
		if !strings.Contains(w.rules.Text(iptables.NAT), rule) {
			t.Errorf("%s has gone", rule)
		}
	}
	if strings.Contains(w.rules.Text(iptables.NAT), "KUBE-SVC-") {
		t.Error("chains of Services are left")
	}
}

// Where processes cannot be seen, a kube-proxy shows by its canary.
func TestCanary(t *testing.T) {
	for _, c := range []struct {
		name  string
		after time.Duration // that it is made again; 0 is never
		waits bool
		alive bool
	}{
		{"none runs", 0, true, false},
		{"one runs", 25 * time.Second, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				n := w.proxied()
				if c.after > 0 {
					time.AfterFunc(c.after, func() { w.must(w.rules.Foreign("*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n")) })
				}
				var out strings.Builder
				err := n.leaveKubeProxy(t.Context(), Options{KubeProxy: kubeProxy{hides: true}}, &report{out: &out})
				if errors.Is(err, ErrKubeProxyRuns) != c.alive || !c.alive && err != nil {
					t.Errorf("error %v", err)
				}
				if there := strings.Contains(w.rules.Text(iptables.NAT), "KUBE-SERVICES"); there != c.alive {
					t.Errorf("its rules are there: %t\n%s", there, out.String())
				}
			})
		})
	}
}

// ending is a kube-proxy that runs until it has ended.
type ending struct{ ends time.Time }

func (e ending) SeesProcesses() bool { return true }
func (e ending) Running(context.Context) []string {
	if time.Now().Before(e.ends) {
		return []string{"process 7"}
	}
	return nil
}

// A kube-proxy that was just deleted has its time to end.
func TestKubeProxyEnds(t *testing.T) {
	for after, want := range map[time.Duration]struct {
		said  string
		runs  bool
		waits time.Duration
	}{
		0:                {},
		12 * time.Second: {said: "waiting up to 30s for kube-proxy to end (process 7)\n", waits: 12 * time.Second},
		time.Hour:        {said: "waiting up to 30s for kube-proxy to end (process 7)\n", waits: 30 * time.Second, runs: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var out strings.Builder
			err := Options{KubeProxy: ending{began.Add(after)}}.awaitKubeProxyEnd(t.Context(), &out)
			if errors.Is(err, ErrKubeProxyRuns) != want.runs || !want.runs && err != nil || out.String() != want.said || time.Since(began) != want.waits {
				t.Errorf("that ends after %s: error %v after %s, it says\n%s", after, err, time.Since(began), out.String())
			}
		})
	}
}

// Nothing is touched while it runs.
func TestKubeProxyRuns(t *testing.T) {
	err := Options{KubeProxy: kubeProxy{signs: []string{"process 7"}}}.kubeProxyRuns(t.Context())
	if !errors.Is(err, ErrKubeProxyRuns) || !strings.Contains(err.Error(), "kubectl -n kube-system delete ds kube-proxy") || !strings.Contains(err.Error(), "(process 7)") {
		t.Errorf("error %v", err)
	}
}
