package policy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// newCuttingWorld is a world whose agent cuts flows.
func newCuttingWorld() (*world, *conntrack.Fake) {
	w, flows := newWorld(), conntrack.NewFake()
	config := testConfig
	config.CutFlows = true
	rules := map[inet.Family]*iptables.Ruleset{inet.IPv4: iptables.NewRuleset(w.rules, inet.IPv4, slog.New(slog.DiscardHandler))}
	w.feeds = cluster.NewFeeds()
	drivers := w.drivers(rules)
	drivers.Flows, drivers.HostAddrs = flows, func() ([]netip.Addr, error) { return nodeAddrs["node1"], nil }
	w.c = New(config, w.feeds, drivers, slog.New(slog.DiscardHandler))
	return w, flows
}

// tracked is the entry of a flow from a client to what the server is called by.
func tracked(t *testing.T, flows *conntrack.Fake, p inet.Protocol, client, to, server string) {
	t.Helper()
	at := netip.MustParseAddrPort
	if err := flows.Add(conntrack.Entry{Protocol: p, From: at(client), To: at(to), ReplyFrom: at(server), ReplyTo: at(client)}); err != nil {
		t.Fatal(err)
	}
}

// cutLines are the flows that are cut.
func cutLines(flows *conntrack.Fake) string {
	var lines []string
	for line := range strings.Lines(flows.String()) {
		if flow, ok := strings.CutSuffix(line, " mark=131072\n"); ok {
			lines = append(lines, flow)
		}
	}
	return strings.Join(lines, "\n")
}

// Exactly those established flows are cut that the policies forbid: by the
// client that sent first, and the server after all translations.
func TestFlowsThatAreCut(t *testing.T) {
	w, flows := newCuttingWorld()
	w.namespace(newNamespace("red", ""))
	w.pod(newPod("red", "web", "node1", "10.244.1.2", "app=web"))
	w.pod(newPod("red", "friend", "node2", "10.244.2.2", "app=friend"))
	w.pod(newPod("red", "free", "node1", "10.244.1.3", ""))
	w.policy(&cluster.NetworkPolicy{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: "red", Name: "web"}}, Pods: selects("app=web"), IsolatesIngress: true, IsolatesEgress: true,
		Ingress: []cluster.PolicyRule{
			{Peers: []cluster.PolicyPeer{{Pods: selects("app=friend")}}, Ports: []cluster.PolicyPort{{Protocol: inet.TCP, Port: 80, End: 80}}},
			{Peers: []cluster.PolicyPeer{{Block: &cluster.IPBlock{CIDR: netip.MustParsePrefix("192.0.2.0/24"), Except: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")}}}}, AnyPort: true},
		},
		Egress: []cluster.PolicyRule{{AnyPeer: true, Ports: []cluster.PolicyPort{{Protocol: inet.UDP, Port: 53, End: 53}}}},
	})
	w.settle(t)
	const web = "10.244.1.2"
	for _, f := range []struct {
		p                  inet.Protocol
		client, to, server string
	}{
		// to the Pod
		{inet.TCP, "10.244.2.2:1001", web + ":80", web + ":80"},
		{inet.TCP, "10.244.2.2:1002", web + ":81", web + ":81"}, // cut: another port
		{inet.UDP, "10.244.2.2:1003", web + ":80", web + ":80"}, // cut: another protocol
		{inet.TCP, "10.244.2.9:1004", web + ":80", web + ":80"}, // cut: of nobody
		{inet.TCP, "192.0.2.5:1005", web + ":22", web + ":22"},
		{inet.TCP, "192.0.2.200:1006", web + ":22", web + ":22"}, // cut: an exception
		{inet.TCP, "192.168.50.1:1007", web + ":9", web + ":9"},  // of the host
		{inet.TCP, "10.244.1.1:1008", web + ":9", web + ":9"},    // of the host's bridge
		// to a Service and to a node port that the Pod answers
		{inet.TCP, "10.244.2.2:1010", "10.96.0.7:8080", web + ":80"},
		{inet.TCP, "10.244.2.9:1011", "10.96.0.7:8080", web + ":80"},      // cut
		{inet.TCP, "203.0.113.7:1012", "192.168.50.1:30080", web + ":80"}, // cut
		// of the Pod
		{inet.UDP, web + ":1020", "10.96.0.10:53", "10.244.2.7:53"},
		{inet.UDP, web + ":1021", "10.96.0.10:53", "10.244.2.7:5353"},         // cut: its port is another there
		{inet.TCP, web + ":1022", "203.0.113.7:443", "203.0.113.7:443"},       // cut
		{inet.TCP, web + ":1023", "192.168.50.1:22", "192.168.50.1:22"},       // cut: to the host
		{inet.TCP, web + ":1024", "192.168.50.1:30080", "192.168.50.1:30080"}, // a node port, whoever serves it
		{inet.TCP, web + ":1025", "10.96.0.7:8080", "10.96.0.7:8080"},         // a Service that is not translated yet
		// of others
		{inet.TCP, "10.244.2.9:1030", "10.244.1.3:80", "10.244.1.3:80"},
		{inet.TCP, "10.244.2.9:1031", "10.244.2.2:80", "10.244.2.2:80"},
		{1, web + ":0", "203.0.113.7:0", "203.0.113.7:0"}, // cut: ICMP
	} {
		tracked(t, flows, f.p, f.client, f.to, f.server)
	}
	if err := w.c.cut(); err != nil {
		t.Fatal(err)
	}
	want := trim(`
		1 src=10.244.1.2 dst=203.0.113.7 sport=0 dport=0 src=203.0.113.7 dst=10.244.1.2 sport=0 dport=0
		tcp src=10.244.1.2 dst=192.168.50.1 sport=1023 dport=22 src=192.168.50.1 dst=10.244.1.2 sport=22 dport=1023
		tcp src=10.244.1.2 dst=203.0.113.7 sport=1022 dport=443 src=203.0.113.7 dst=10.244.1.2 sport=443 dport=1022
		tcp src=10.244.2.2 dst=10.244.1.2 sport=1002 dport=81 src=10.244.1.2 dst=10.244.2.2 sport=81 dport=1002
		tcp src=10.244.2.9 dst=10.244.1.2 sport=1004 dport=80 src=10.244.1.2 dst=10.244.2.9 sport=80 dport=1004
		tcp src=10.244.2.9 dst=10.96.0.7 sport=1011 dport=8080 src=10.244.1.2 dst=10.244.2.9 sport=80 dport=1011
		tcp src=192.0.2.200 dst=10.244.1.2 sport=1006 dport=22 src=10.244.1.2 dst=192.0.2.200 sport=22 dport=1006
		tcp src=203.0.113.7 dst=192.168.50.1 sport=1012 dport=30080 src=10.244.1.2 dst=203.0.113.7 sport=80 dport=1012
		udp src=10.244.1.2 dst=10.96.0.10 sport=1021 dport=53 src=10.244.2.7 dst=10.244.1.2 sport=5353 dport=1021
		udp src=10.244.2.2 dst=10.244.1.2 sport=1003 dport=80 src=10.244.1.2 dst=10.244.2.2 sport=80 dport=1003`)
	if diff := cmp.Diff(want, cutLines(flows)); diff != "" {
		t.Errorf("cut (-want +got):\n%s", diff)
	}
	if n := w.c.FlowsCut(); n != 10 {
		t.Errorf("%d flows were counted", n)
	}
	w.feeds.NetworkPolicies.Set(cluster.Key{Namespace: "red", Name: "web"}, nil)
	w.settle(t)
	if err := w.c.cut(); err != nil || cutLines(flows) != "" {
		t.Errorf("after the policy is gone %v are cut still:\n%s", err, cutLines(flows))
	}
	if n := w.c.FlowsCut(); n != 10 {
		t.Errorf("%d flows were counted in the end", n)
	}
}

// The range of cluster IPs may be guessed, and Pods be in it: theirs are no
// addresses of Services.
func TestFlowsOfPodsInTheServiceRange(t *testing.T) {
	w, flows := newCuttingWorld()
	w.namespace(newNamespace("red", ""))
	w.pod(newPod("red", "web", "node1", "10.96.1.2", "app=web"))
	w.pod(newPod("red", "other", "node2", "10.96.2.2", ""))
	w.policy(&cluster.NetworkPolicy{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: "red", Name: "web"}}, Pods: selects("app=web"), IsolatesIngress: true, IsolatesEgress: true,
	})
	w.settle(t)
	tracked(t, flows, inet.TCP, "10.96.2.2:1001", "10.96.1.2:80", "10.96.1.2:80")
	tracked(t, flows, inet.TCP, "10.96.1.2:1002", "10.96.2.2:80", "10.96.2.2:80")
	tracked(t, flows, inet.TCP, "10.96.1.2:1003", "10.96.0.7:80", "10.96.0.7:80") // a Service that is not translated yet
	if err := w.c.cut(); err != nil {
		t.Fatal(err)
	}
	want := trim(`
		tcp src=10.96.1.2 dst=10.96.2.2 sport=1002 dport=80 src=10.96.2.2 dst=10.96.1.2 sport=80 dport=1002
		tcp src=10.96.2.2 dst=10.96.1.2 sport=1001 dport=80 src=10.96.1.2 dst=10.96.2.2 sport=80 dport=1001`)
	if diff := cmp.Diff(want, cutLines(flows)); diff != "" {
		t.Errorf("cut (-want +got):\n%s", diff)
	}
}

// What decides about established flows decides as the judge does.
func TestCuttingJudgesAsTheAPISays(t *testing.T) {
	judgedFlows := 0
	for number := range uint64(150) {
		d := newDice(*caseSeed, 1<<40+number)
		o := d.drawCluster()
		w := newDualWorldWith(configOf(number))
		w.publish(o)
		j := &judge{o, testConfig.NodeName}
		v := &verdict{state: w.c.state, config: w.c.config, host: map[netip.Addr]bool{}, isolating: map[cluster.Key][directions][]cluster.Key{}}
		for _, addr := range nodeAddrs["node1"] {
			v.host[addr] = true
		}
		for _, addrs := range o.addrs() {
			for _, src := range addrs {
				for _, dst := range addrs {
					for _, to := range d.someTargets() {
						f := flow{src, dst, to.protocol, to.port}
						want := j.allows(f) || v.host[dst] && w.c.config.NodePorts.contains(uint16(f.port))
						if got := v.allows(connection{inetProtocols[f.protocol], src, dst, uint16(f.port)}); got != want {
							t.Fatalf("cluster %d of seed %d: %s is allowed: %v, want %v\n%s", number, *caseSeed, f, got, want, o.yaml())
						}
						judgedFlows++
					}
				}
			}
		}
	}
	t.Logf("%d flows judged", judgedFlows)
}

// Changes that come together are one reading of the connections, and changes
// that forbid nothing are none.
func TestThePaceOfCutting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, flows := newCuttingWorld()
		for _, ns := range []string{"red", "blue"} {
			w.namespace(newNamespace(ns, ""))
		}
		w.pod(newPod("red", "web", "node1", "10.244.1.2", ""))
		p := denyIngress("red")
		p.Ingress = []cluster.PolicyRule{{Peers: []cluster.PolicyPeer{{Pods: labels.Everything()}}, AnyPort: true}}
		w.policy(p)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.c.Run(ctx) }()
		defer func() { cancel(); <-done }()
		const anyNumber = -1
		expect := func(when string, reads int, cut string) {
			t.Helper()
			synctest.Wait()
			if n := flows.Reads(); reads != anyNumber && n != reads {
				t.Errorf("%s: %d readings, want %d", when, n, reads)
			}
			if got := cutLines(flows); !strings.Contains(got, cut) || cut == "" && got != "" {
				t.Errorf("%s: cut are\n%s\nwant %q", when, got, cut)
			}
		}
		expect("at the start", 1, "")
		time.Sleep(time.Minute)
		w.pod(newPod("red", "client", "node2", "10.244.2.2", ""))
		tracked(t, flows, inet.TCP, "10.244.2.2:1000", "10.244.1.2:80", "10.244.1.2:80")
		expect("a peer comes", 1, "")
		time.Sleep(time.Minute)
		expect("at rest", 1, "")
		w.pod(newPod("red", "client", "node2", "10.244.2.3", ""))
		expect("the peer has another address", 2, "src=10.244.2.2")
		for i := range 20 {
			w.policy(denyIngress([]string{"red", "blue"}[i%2]))
			synctest.Wait()
		}
		expect("many changes at once", 2, "src=10.244.2.2")
		time.Sleep(cutEvery)
		expect("a second later", 3, "src=10.244.2.2")
		time.Sleep(time.Minute)
		w.policy(p)
		w.pod(newPod("red", "client", "node2", "10.244.2.2", ""))
		time.Sleep(cutEvery)
		expect("allowed again", anyNumber, "")
		flows.FailWith(errors.New("broken"))
		w.policy(denyIngress("red"))
		time.Sleep(2 * cutRetry)
		flows.FailWith(nil)
		time.Sleep(cutRetry)
		expect("tried again", anyNumber, "src=10.244.2.2")
	})
}

// Without the flag there are no rules for flows that are cut, and no flow is
// read.
func TestNothingIsCutUnasked(t *testing.T) {
	w := newWorld()
	w.pod(newPod("red", "web", "node1", "10.244.1.2", ""))
	w.policy(denyIngress("red"))
	w.settle(t)
	if strings.Contains(w.kernel(), "connmark") || strings.Contains(w.kernel(), cutChain) {
		t.Errorf("there are rules for flows that are cut:\n%s", w.kernel())
	}
	cutting, _ := newCuttingWorld()
	cutting.pod(newPod("red", "web", "node1", "10.244.1.2", ""))
	cutting.policy(denyIngress("red"))
	cutting.settle(t)
	var rules []string
	for line := range strings.Lines(cutting.rules.Text(iptables.Filter)) {
		if strings.Contains(line, "CUT") {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	slices.Sort(rules)
	want := trim(`
		-A KUBE-POD-FW-CUT -m comment --comment "cut, as policies do not allow it any more" -j REJECT --reject-with icmp-port-unreachable
		-A KUBE-POD-FW-CUT -m conntrack --ctstate RELATED -j RETURN
		-A KUBE-POD-FW-CUT -p tcp -m comment --comment "cut, as policies do not allow it any more" -j REJECT --reject-with tcp-reset
		-A KUBE-ROUTER-FORWARD -m connmark --mark 0x20000/0x20000 -j KUBE-POD-FW-CUT
		-A KUBE-ROUTER-INPUT -m connmark --mark 0x20000/0x20000 -j KUBE-POD-FW-CUT
		-A KUBE-ROUTER-OUTPUT -m connmark --mark 0x20000/0x20000 -j KUBE-POD-FW-CUT
		:KUBE-POD-FW-CUT - [0:0]`)
	if got := strings.Join(rules, "\n"); got != want {
		t.Errorf("the rules (-want +got):\n%s", cmp.Diff(want, got))
	}
}
