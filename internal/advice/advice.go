// Package advice knows the mistakes that people make with kube-router, how each
// shows on a node, and the way out.
//
// The checks are pure functions of Facts; who gathers those is not known here.
package advice

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Severity says what a mistake costs.
type Severity string

// The severities: what does harm now, and what will one day.
const (
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Advice is a mistake and the way out. Two with one Reason are the same
// mistake, whatever the Message says of it by now.
type Advice struct {
	// Reason is UpperCamelCase, as in Events.
	Reason   string
	Severity Severity
	// Message says what was seen, what it costs, and what to do.
	Message string
}

// Facts are what the checks look at. What is not known is the zero value, which
// is no mistake.
type Facts struct {
	// Router and ServiceProxy say which controllers run.
	Router, ServiceProxy bool

	// KubeProxy are the signs of a kube-proxy that runs ("its port 10249
	// answers"), KubeProxyRules those of one that ran ("chain KUBE-SERVICES of
	// the IPv4 table nat").
	KubeProxy, KubeProxyRules []string

	// FullMesh says that all of the cluster's Nodes are peers of each other.
	FullMesh bool
	Nodes    int

	// DirectNodePorts are Services with direct server return that have node
	// ports, DirectHairpins those of which a Pod may be its own client.
	DirectNodePorts, DirectHairpins []string

	// NoGracefulRestart says that peers drop this node's routes when the agent
	// stops.
	NoGracefulRestart bool

	// ForeignRoutes are other owners' routes to Pods, as ip route shows them.
	ForeignRoutes []string

	// NoIPVS says that the kernel has no IPVS, NoScheduler why virtual servers
	// cannot have their scheduler.
	NoIPVS      bool
	NoScheduler string

	ASN uint32
	// Strangers are routes of another cluster with the same ASN.
	Strangers []Stranger

	// SelfCalls are Pods that called themselves through a Service while that
	// does not work.
	SelfCalls []SelfCall
}

// Stranger is a sign of another cluster: a prefix that a peer sent.
type Stranger struct {
	// Prefix leads to Via, which is no node of this cluster.
	Prefix netip.Prefix
	Via    netip.Addr
	// Owner is the node of this cluster whose Pods have addresses of Prefix.
	Owner string
}

// SelfCall is an attempt of a Pod to reach itself through a Service.
type SelfCall struct {
	Pod     netip.Addr
	Service netip.AddrPort
}

// largestMesh is how many nodes may be in a full mesh: each has a session with
// each, n*(n-1)/2 in all.
const largestMesh = 50

// check is one mistake.
type check struct {
	reason   string
	severity Severity
	// see says what is wrong, or "".
	see func(Facts) string
}

// checks are the mistakes, those that break most first.
var checks = [...]check{
	{"KubeProxyRunning", Warning, kubeProxyRunning},
	{"KubeProxyRulesLeft", Warning, kubeProxyLeft},
	{"IPVSMissing", Warning, ipvsMissing},
	{"ForeignRoutes", Warning, foreignRoutes},
	{"ClustersShareASN", Warning, clustersShareASN},
	{"HairpinMissing", Warning, hairpinMissing},
	{"FullMeshTooLarge", Note, fullMesh},
	{"GracefulRestartOff", Note, gracefulRestart},
	{"DirectReturnNodePort", Note, directNodePort},
	{"DirectReturnHairpin", Note, directHairpin},
}

// Check returns the mistakes that the facts show.
func Check(f Facts) []Advice {
	var found []Advice
	for _, c := range checks {
		if message := c.see(f); message != "" {
			found = append(found, Advice{c.reason, c.severity, message})
		}
	}
	return found
}

func kubeProxyRunning(f Facts) string {
	if !f.ServiceProxy || len(f.KubeProxy) == 0 {
		return ""
	}
	return "kube-proxy runs on this node (" + list(f.KubeProxy) + ") beside kube-router's service proxy: both translate the same Services, and connections go to endpoints that have gone. " +
		"Remove it, 'kubectl -n kube-system delete ds kube-proxy', then what it leaves on this node, 'kubectl -n kube-system exec <pod> -- kube-router --cleanup-config'; or leave Services to it with --run-service-proxy=false."
}

func kubeProxyLeft(f Facts) string {
	if !f.ServiceProxy || len(f.KubeProxy) > 0 || len(f.KubeProxyRules) == 0 {
		return ""
	}
	return "kube-proxy does not run here any more, but left " + list(f.KubeProxyRules) + ": Services go on being translated to the endpoints of that time. " +
		"Remove it with 'kubectl -n kube-system exec <pod> -- kube-router --cleanup-config'; no connection breaks. 'kube-router migrate --from=kube-proxy' tells what that is."
}

func ipvsMissing(f Facts) string {
	switch {
	case !f.ServiceProxy:
		return ""
	case f.NoIPVS:
		return "Services do not work on this node: the kernel has no IPVS. Load the modules on the host, 'modprobe -a ip_vs ip_vs_rr ip_vs_wrr ip_vs_sh', " +
			"and name them in /etc/modules-load.d/ipvs.conf for the next boot; the agent goes on by itself."
	case f.NoScheduler != "":
		return "some Services do not work on this node, because the kernel lacks their scheduler: " + f.NoScheduler + ". Load its module on the host, 'modprobe ip_vs_<scheduler>', " +
			"and name it in /etc/modules-load.d/ipvs.conf; the agent goes on by itself."
	}
	return ""
}

func foreignRoutes(f Facts) string {
	if !f.Router || len(f.ForeignRoutes) == 0 {
		return ""
	}
	return "another network plugin has routes to pods on this node: " + list(f.ForeignRoutes) + ". Two that route the same pods cut them off from each other. " +
		"Remove the other plugin (Calico, Cilium, Flannel) with its routes, or leave routing to it with --run-router=false."
}

func clustersShareASN(f Facts) string {
	if !f.Router || len(f.Strangers) == 0 {
		return ""
	}
	var seen []string
	for _, s := range f.Strangers {
		switch {
		case s.Owner != "":
			seen = append(seen, fmt.Sprintf("%s, pods of node %s, is also announced by %s, which is no node of this cluster", s.Prefix, s.Owner, s.Via))
		default:
			seen = append(seen, fmt.Sprintf("%s is announced by %s, which is no node of this cluster", s.Prefix, s.Via))
		}
	}
	return fmt.Sprintf("another cluster on this network seems to have the AS number %d as well: %s. Pods may be reached, or missed, in the wrong cluster. "+
		"Give each cluster a number of its own with --cluster-asn, and pod and Service ranges of its own.", f.ASN, list(seen))
}

func hairpinMissing(f Facts) string {
	if !f.ServiceProxy || len(f.SelfCalls) == 0 {
		return ""
	}
	var seen []string
	for _, s := range f.SelfCalls {
		seen = append(seen, fmt.Sprintf("%s through %s", s.Pod, s.Service))
	}
	slices.Sort(seen)
	return "pods called themselves through their own Service and got no answer: " + list(slices.Compact(seen)) + ". " +
		"Set --hairpin-mode=true, or annotate the Service with kube-router.io/service.hairpin=true."
}

func fullMesh(f Facts) string {
	if !f.Router || !f.FullMesh || f.Nodes <= largestMesh {
		return ""
	}
	return fmt.Sprintf("%d nodes in a full mesh are %d BGP sessions, %d on each node, and all of them hear of each change. "+
		"From %d nodes on use route reflectors: --nodes-full-mesh=false, and two or three nodes as reflectors.", f.Nodes, f.Nodes*(f.Nodes-1)/2, f.Nodes-1, largestMesh)
}

func gracefulRestart(f Facts) string {
	if !f.Router || !f.NoGracefulRestart {
		return ""
	}
	return "BGP graceful restart is off: whenever this agent restarts, as for an upgrade, its peers drop the routes to this node's pods until the sessions are back. " +
		"Set --bgp-graceful-restart=true."
}

func directNodePort(f Facts) string {
	if !f.ServiceProxy || len(f.DirectNodePorts) == 0 {
		return ""
	}
	return "direct server return is not for node ports: those of " + list(f.DirectNodePorts) + " are served without it, and answers pass this node. " +
		"Let clients use the cluster IP, an external IP or a load balancer IP; or annotate the Service with kube-router.io/service.dsr=none."
}

func directHairpin(f Facts) string {
	if !f.ServiceProxy || len(f.DirectHairpins) == 0 {
		return ""
	}
	return "direct server return is not for pods that call themselves: " + list(f.DirectHairpins) + " have it together with hairpin mode, and such calls are translated and masqueraded. " +
		"Nothing is dropped; where the source address counts, take one of the two off: kube-router.io/service.dsr=none, or no hairpin."
}

// few is how many of a kind a message names.
const few = 3

// list names a few.
func list(names []string) string {
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// Strangers finds the routes of another cluster among those learned by iBGP:
// their next hop is no node of this cluster. names has the nodes by address,
// pods the Pods' networks of each node. outside are next hops that may be
// anything: routers that we speak eBGP with; a cluster that has some hears of
// third parties, too, so that only prefixes of our own pods tell.
func Strangers(learned map[netip.Prefix][]netip.Addr, names map[netip.Addr]string, pods map[string][]netip.Prefix, outside []netip.Addr) []Stranger {
	var found []Stranger
	for prefix, hops := range learned {
		owner := ownerOf(prefix, pods)
		for _, hop := range hops {
			if names[hop] == "" && (owner != "" || len(outside) == 0) && !slices.Contains(outside, hop) {
				found = append(found, Stranger{Prefix: prefix, Via: hop, Owner: owner})
			}
		}
	}
	slices.SortFunc(found, func(a, b Stranger) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), a.Via.Compare(b.Via))
	})
	return found
}

// ownerOf is the node whose Pods have addresses of a prefix, or "".
func ownerOf(prefix netip.Prefix, pods map[string][]netip.Prefix) string {
	owner := ""
	for node, cidrs := range pods {
		if (owner == "" || node < owner) && slices.ContainsFunc(cidrs, prefix.Overlaps) {
			owner = node
		}
	}
	return owner
}
