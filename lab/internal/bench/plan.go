package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/bench/load"
)

// The proxies that can be measured.
const (
	Ours     = "ours"
	IPVS     = "ipvs"
	IPTables = "iptables"
)

// NodeCommand is the subcommand of the lab binary that measures, on a node.
const NodeCommand = "bench-node"

// Plan is what a run measures.
type Plan struct {
	// Sizes are numbers of Services, ascending.
	Sizes []int
	// Proxies are Ours, IPVS and IPTables, or some of them.
	Proxies []string
}

// The bounds of a size: changes of endpoints must not meet at one Service, and
// the Services must fit into the range of the lab's Service addresses.
const (
	fewestServices = load.Few
	mostServices   = 20000
)

// NewPlan reads a plan from lists separated by commas.
func NewPlan(sizes, proxies string) (Plan, error) {
	var p Plan
	for _, s := range strings.Split(sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < fewestServices || n > mostServices {
			return p, fmt.Errorf("--sizes %q: %q is not a number of Services from %d to %d", sizes, s, fewestServices, mostServices)
		}
		p.Sizes = append(p.Sizes, n)
	}
	slices.Sort(p.Sizes)
	p.Sizes = slices.Compact(p.Sizes)
	for _, name := range strings.Split(proxies, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains([]string{Ours, IPVS, IPTables}, name) {
			return p, fmt.Errorf("--proxies %q: %q is none of %s, %s, %s", proxies, name, Ours, IPVS, IPTables)
		}
		if !slices.Contains(p.Proxies, name) {
			p.Proxies = append(p.Proxies, name)
		}
	}
	return p, nil
}

// needsKubeProxy tells whether kube-proxy is part of the plan.
func (p Plan) needsKubeProxy() bool {
	return slices.Contains(p.Proxies, IPVS) || slices.Contains(p.Proxies, IPTables)
}

// metricsURL is where a proxy answers with its metrics, on the node.
func metricsURL(proxy string) string {
	if proxy == Ours {
		return "http://127.0.0.1:20241/metrics"
	}
	return "http://127.0.0.1:10249/metrics"
}

// Command is how a proxy is started on the lab's first node. kube-proxy has
// its defaults, as kubeadm leaves them.
func Command(proxy, binDir, kubeconfig string) []string {
	if proxy == Ours {
		return []string{
			binDir + "/kube-router", "--kubeconfig=" + kubeconfig, "--hostname-override=node1",
			"--run-router=false", "--run-firewall=false", "--run-service-proxy=true", "--metrics-port=20241",
		}
	}
	return []string{
		binDir + "/kube-proxy", "--kubeconfig=" + kubeconfig, "--hostname-override=node1",
		"--proxy-mode=" + proxy, "--cluster-cidr=" + load.PodRange.String(),
	}
}
