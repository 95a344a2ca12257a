//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// toolsShow runs the commands by which courses on kube-router look for faults,
// in the agent's pod, on a cluster that is well and in which a policy with a
// list of peers selects a pod of the node.
func toolsShow(t *testing.T, node int) {
	exec := "kubectl -n kube-system exec " + agentOf(t, node) + " -- "
	var peers, routes []string
	for other := 1; other <= 3; other++ {
		if other != node {
			peers = append(peers, nodeIP(t, other))
			cidr := must(t, "kubectl get node node%d -o jsonpath='{.spec.podCIDR}'", other)
			routes = append(routes, cidr+" via "+nodeIP(t, other)+" ")
		}
	}
	eventually(t, func(out string, err error) bool {
		return err == nil && !slices.ContainsFunc(peers, func(ip string) bool { return !established(out, ip) })
	}, "%s", exec+"gobgp neighbor")
	eventually(t, func(out string, err error) bool {
		ips, servers, _ := strings.Cut(out, "\n")
		return err == nil && ips != "" && !slices.ContainsFunc(strings.Fields(ips), func(ip string) bool {
			return ip != "None" && !strings.Contains(servers, " "+ip+":")
		})
	}, "kubectl get services -A -o jsonpath='{.items[*].spec.clusterIP}' && echo && %s", exec+"ipvsadm -Ln")
	eventually(t, func(out string, err error) bool {
		return err == nil && !slices.ContainsFunc(routes, func(route string) bool { return !strings.Contains("\n"+out, "\n"+route) })
	}, "%s", exec+"ip route show proto 17")
	chain := must(t, "%s", exec+"iptables -L KUBE-ROUTER-INPUT -n -v")
	for _, part := range []string{"Chain KUBE-ROUTER-INPUT (1 references)", "pkts", "kube-router-isolated-pods src"} {
		if !strings.Contains(chain, part) {
			t.Errorf("no %q in\n%s", part, chain)
		}
	}
	eventually(t, func(out string, err error) bool {
		sets := "\n" + out + "\n"
		return err == nil && strings.Contains(sets, "\nkube-router-isolated-pods\n") && strings.Contains(sets, "\nKUBE-ROUTER-")
	}, "%s", exec+"ipset list -name")
	logs := must(t, "kubectl -n kube-system logs -l k8s-app=kube-router --tail=50")
	if n := strings.Count(logs, "\n") + 1; logs == "" || n > 3*50 {
		t.Errorf("the logs of three agents have %d lines:\n%s", n, logs)
	}
}

// established finds a peer's line in what "gobgp neighbor" prints: Peer, AS,
// Up/Down and State, which it shortens to "Establ".
func established(out, ip string) bool {
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == ip {
			return slices.Contains(f, "Establ")
		}
	}
	return false
}

// metricsTell scrapes an agent that has --metrics-port=8080, on a node from
// which requests to a Service were sent.
func metricsTell(t *testing.T, node int) {
	t.Helper()
	positive := []string{
		"kube_router_service_proxy_ipvs_connections_total",
		"kube_router_firewall_iptables_rules_total",
	}
	for _, controller := range []string{"routes", "services", "policy"} {
		positive = append(positive, fmt.Sprintf("kube_router_controller_sync_duration_seconds_count{controller=%q}", controller))
	}
	for other := 1; other <= 3; other++ {
		if other != node {
			positive = append(positive, fmt.Sprintf("kube_router_bgp_session_up{neighbor=%q}", nodeIP(t, other)))
		}
	}
	out := eventually(t, func(out string, err error) bool {
		return err == nil && !slices.ContainsFunc(positive, func(series string) bool { return sample(out, series) <= 0 })
	}, "%s exec --node %d 'curl -sS --max-time 3 http://127.0.0.1:8080/metrics'", lab, node)
	sessions := 0
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "kube_router_bgp_session_up{") && strings.HasSuffix(strings.TrimSpace(line), " 1") {
			sessions++
		}
	}
	if sessions != 2 {
		t.Errorf("%d sessions are up, want 2:\n%s", sessions, out)
	}
}

// sample is the value of a series, or -1 where it is not there.
func sample(metrics, series string) float64 {
	for line := range strings.Lines(metrics) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				return v
			}
		}
	}
	return -1
}
