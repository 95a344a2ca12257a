package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
)

func TestStandardWorkload(t *testing.T) {
	w := standard(policyCount, policiesPerPod)
	addrs, local := map[netip.Addr]bool{}, map[string]int{} // policies by local pod
	for _, p := range w.pods {
		addrs[p.ip] = true
		if p.node == localNode {
			local[p.name] = 0
		}
	}
	for _, policy := range w.policies {
		m, err := policyModel(policy)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range w.pods {
			if p.node == localNode && p.namespace == m.Namespace && m.Pods.Matches(labels.Set(p.labels)) {
				local[p.name]++
			}
		}
	}
	if len(addrs) != podCount || len(local) != podsPerNode {
		t.Errorf("%d addresses and %d local pods", len(addrs), len(local))
	}
	for name, count := range local {
		if count != policiesPerPod {
			t.Errorf("%s is selected by %d policies", name, count)
		}
	}
}

// The client is allowed by the last of the affected Pod's policies alone.
func TestConnectionsAreAllowedByTheLastPolicy(t *testing.T) {
	for _, l := range layouts() {
		if l.policies == 0 {
			continue
		}
		w, client, servers := connectWorkload(l)
		var selecting, allowing []string
		for _, policy := range w.policies {
			m, err := policyModel(policy)
			if err != nil {
				t.Fatal(err)
			}
			for pair, server := range servers {
				if m.Namespace != server.namespace || !m.Pods.Matches(labels.Set(server.labels)) {
					continue
				}
				if pair == unaffected {
					t.Errorf("%s: %s selects the unaffected pod", l.name, m.Key)
				}
				selecting = append(selecting, m.Name)
				if allows(w, m, client, firstPort+l.perPod-1) {
					allowing = append(allowing, m.Name)
				}
			}
		}
		if len(selecting) != l.perPod || len(allowing) != 1 || allowing[0] != slices.Max(selecting) {
			t.Errorf("%s: %d policies select the affected pod, of which %q allow the client", l.name, len(selecting), allowing)
		}
	}
}

// allows says whether a policy's ingress rules allow a Pod and a port.
func allows(w *workload, policy *cluster.NetworkPolicy, from pod, port int) bool {
	for _, rule := range policy.Ingress {
		for _, peer := range rule.Peers {
			inside := from.namespace == policy.Namespace
			if peer.Namespaces != nil {
				i := slices.IndexFunc(w.namespaces, func(n namespace) bool { return n.name == from.namespace })
				inside = peer.Namespaces.Matches(labels.Set(w.namespaces[i].labels))
			}
			if inside && peer.Pods.Matches(labels.Set(from.labels)) && int(rule.Ports[0].Port) == port {
				return true
			}
		}
	}
	return false
}

func TestFlatRules(t *testing.T) {
	server := pod{namespace: "a", name: "server", node: localNode, labels: map[string]string{"app": "app-0"}, ip: netip.MustParseAddr("10.0.0.1")}
	w := &workload{
		namespaces: []namespace{{"a", map[string]string{"team": "team-0"}}, {"b", map[string]string{"team": "team-1"}}},
		pods: []pod{
			server,
			{namespace: "a", name: "peer", node: nodeName(1), labels: map[string]string{"tier": "tier-1"}, ip: netip.MustParseAddr("10.0.0.2")},
			{namespace: "b", name: "peer", node: nodeName(1), labels: map[string]string{"tier": "tier-1"}, ip: netip.MustParseAddr("10.0.0.3")},
		},
	}
	policy := standardPolicy(1, 0, 1)
	policy.Namespace = "a"
	w.policies = append(w.policies, policy)
	const want = `
*filter
:POLICY-0-IN - [0:0]
:POLICY-0-OUT - [0:0]
:POD-0-IN - [0:0]
:POD-0-OUT - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -d 10.0.0.1 -j POD-0-IN
-A FORWARD -s 10.0.0.1 -j POD-0-OUT
-A POLICY-0-IN -s 10.0.0.2 -p tcp --dport 8001 -j ACCEPT
-A POLICY-0-IN -s 10.0.0.3 -p tcp --dport 9001 -j ACCEPT
-A POLICY-0-OUT -d 10.0.0.2 -p tcp --dport 443 -j ACCEPT
-A POLICY-0-OUT -d 198.18.1.0/24 -p tcp --dport 443 -j ACCEPT
-A POD-0-IN -j POLICY-0-IN
-A POD-0-IN -j REJECT
-A POD-0-OUT -j POLICY-0-OUT
-A POD-0-OUT -j REJECT
COMMIT
`
	if got := flat(w); got != strings.TrimPrefix(want, "\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestManyWorkload(t *testing.T) {
	w := many()
	addrs := map[netip.Addr]bool{}
	for _, p := range w.pods {
		addrs[p.ip] = true
	}
	if len(w.namespaces) != 25000 || len(addrs) != 100000 || len(w.policies) != 75000 {
		t.Errorf("%d namespaces, %d addresses, %d policies", len(w.namespaces), len(addrs), len(w.policies))
	}
	feeds := cluster.NewFeeds()
	seen := 0
	feeds.NetworkPolicies.Subscribe(func(cluster.Change[cluster.NetworkPolicy]) { seen++ })
	if err := fill(feeds, w); err != nil || seen != 75000 {
		t.Errorf("%d policies were published, error %v", seen, err)
	}
}
