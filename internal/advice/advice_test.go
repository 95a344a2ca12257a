package advice

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// right is a node on which nobody made a mistake.
func right() Facts {
	return Facts{Router: true, ServiceProxy: true, FullMesh: true, Nodes: 50, ASN: 64512}
}

// Each of the mistakes is noticed, and where the controller that it concerns is
// off it is none.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name    string
		mistake func(*Facts)
		want    Advice
		// off is what makes it none.
		off func(*Facts)
	}{
		{"kube-proxy runs", func(f *Facts) {
			f.KubeProxy = []string{"http://127.0.0.1:10249/proxyMode answers"}
			f.KubeProxyRules = []string{"rules"}
		}, Advice{"KubeProxyRunning", Warning, "kube-proxy runs on this node (http://127.0.0.1:10249/proxyMode answers) beside kube-router's service proxy: " +
			"both translate the same Services, and connections go to endpoints that have gone. Remove it, 'kubectl -n kube-system delete ds kube-proxy', " +
			"then what it leaves on this node, 'kubectl -n kube-system exec <pod> -- kube-router --cleanup-config'; or leave Services to it with --run-service-proxy=false."},
			func(f *Facts) { f.ServiceProxy = false }},
		{"kube-proxy ran", func(f *Facts) { f.KubeProxyRules = []string{"the rules of chain KUBE-SERVICES in the IPv4 table nat"} },
			Advice{"KubeProxyRulesLeft", Warning, "kube-proxy does not run here any more, but left the rules of chain KUBE-SERVICES in the IPv4 table nat: " +
				"Services go on being translated to the endpoints of that time. Remove it with 'kubectl -n kube-system exec <pod> -- kube-router --cleanup-config'; " +
				"no connection breaks. 'kube-router migrate --from=kube-proxy' tells what that is."},
			func(f *Facts) { f.ServiceProxy = false }},
		{"no IPVS", func(f *Facts) { f.NoIPVS = true },
			Advice{"IPVSMissing", Warning, "Services do not work on this node: the kernel has no IPVS. Load the modules on the host, " +
				"'modprobe -a ip_vs ip_vs_rr ip_vs_wrr ip_vs_sh', and name them in /etc/modules-load.d/ipvs.conf for the next boot; the agent goes on by itself."},
			func(f *Facts) { f.ServiceProxy = false }},
		{"no scheduler", func(f *Facts) { f.NoScheduler = `ipvsadm -A: no such file (the kernel has no scheduler "wrr")` },
			Advice{"IPVSMissing", Warning, "some Services do not work on this node, because the kernel lacks their scheduler: " +
				`ipvsadm -A: no such file (the kernel has no scheduler "wrr"). Load its module on the host, 'modprobe ip_vs_<scheduler>', ` +
				"and name it in /etc/modules-load.d/ipvs.conf; the agent goes on by itself."},
			func(f *Facts) { f.ServiceProxy = false }},
		{"another plugin's routes", func(f *Facts) {
			f.ForeignRoutes = []string{"10.244.2.0/24 via 10.0.0.2 dev tunl0 proto bird", "b", "c", "d", "e"}
		}, Advice{"ForeignRoutes", Warning, "another network plugin has routes to pods on this node: 10.244.2.0/24 via 10.0.0.2 dev tunl0 proto bird, b, c and 2 more. " +
			"Two that route the same pods cut them off from each other. Remove the other plugin (Calico, Cilium, Flannel) with its routes, or leave routing to it with --run-router=false."},
			func(f *Facts) { f.Router = false }},
		{"two clusters with one ASN", func(f *Facts) {
			f.Strangers = []Stranger{
				{Prefix: prefix("10.244.2.0/24"), Via: addr("10.0.9.2"), Owner: "node2"},
				{Prefix: prefix("10.245.1.0/24"), Via: addr("10.0.9.3")},
			}
		}, Advice{"ClustersShareASN", Warning, "another cluster on this network seems to have the AS number 64512 as well: " +
			"10.244.2.0/24, pods of node node2, is also announced by 10.0.9.2, which is no node of this cluster, " +
			"10.245.1.0/24 is announced by 10.0.9.3, which is no node of this cluster. Pods may be reached, or missed, in the wrong cluster. " +
			"Give each cluster a number of its own with --cluster-asn, and pod and Service ranges of its own."},
			func(f *Facts) { f.Router = false }},
		{"a pod called itself", func(f *Facts) {
			f.SelfCalls = []SelfCall{{addr("10.244.1.7"), netip.MustParseAddrPort("10.96.0.7:80")}, {addr("10.244.1.7"), netip.MustParseAddrPort("10.96.0.7:80")}}
		}, Advice{"HairpinMissing", Warning, "pods called themselves through their own Service and got no answer: 10.244.1.7 through 10.96.0.7:80. " +
			"Set --hairpin-mode=true, or annotate the Service with kube-router.io/service.hairpin=true."},
			func(f *Facts) { f.ServiceProxy = false }},
		{"a large mesh", func(f *Facts) { f.Nodes = 80 },
			Advice{"FullMeshTooLarge", Note, "80 nodes in a full mesh are 3160 BGP sessions, 79 on each node, and all of them hear of each change. " +
				"From 50 nodes on use route reflectors: --nodes-full-mesh=false, and two or three nodes as reflectors."},
			func(f *Facts) { f.FullMesh = false }},
		{"no graceful restart", func(f *Facts) { f.NoGracefulRestart = true },
			Advice{"GracefulRestartOff", Note, "BGP graceful restart is off: whenever this agent restarts, as for an upgrade, its peers drop the routes to this node's pods until the sessions are back. " +
				"Set --bgp-graceful-restart=true."},
			func(f *Facts) { f.Router = false }},
		{"direct server return and node ports", func(f *Facts) { f.DirectNodePorts = []string{"default/web"} },
			Advice{"DirectReturnNodePort", Note, "direct server return is not for node ports: those of default/web are served without it, and answers pass this node. " +
				"Let clients use the cluster IP, an external IP or a load balancer IP; or annotate the Service with kube-router.io/service.dsr=none."},
			func(f *Facts) { f.ServiceProxy = false }},
		{"direct server return and hairpin", func(f *Facts) { f.DirectHairpins = []string{"default/web"} },
			Advice{"DirectReturnHairpin", Note, "direct server return is not for pods that call themselves: default/web have it together with hairpin mode, and such calls are translated and masqueraded. " +
				"Nothing is dropped; where the source address counts, take one of the two off: kube-router.io/service.dsr=none, or no hairpin."},
			func(f *Facts) { f.ServiceProxy = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := right()
			if got := Check(f); len(got) > 0 {
				t.Fatalf("without it: %v", got)
			}
			c.mistake(&f)
			if d := cmp.Diff([]Advice{c.want}, Check(f)); d != "" {
				t.Error(d)
			}
			c.off(&f)
			if got := Check(f); len(got) > 0 {
				t.Errorf("where it does not matter: %v", got)
			}
			if !strings.Contains(c.want.Message, "--") && !strings.Contains(c.want.Message, "modprobe") && !strings.Contains(c.want.Message, "kube-router.io/") {
				t.Error("the message has no way out")
			}
		})
	}
}

func TestStrangers(t *testing.T) {
	names := map[netip.Addr]string{addr("10.0.0.1"): "node1", addr("10.0.0.2"): "node2"}
	pods := map[string][]netip.Prefix{"node1": {prefix("10.244.1.0/24")}, "node2": {prefix("10.244.2.0/24"), prefix("fd00:2::/64")}}
	router := addr("10.0.0.254")
	type routes = map[netip.Prefix][]netip.Addr
	for name, c := range map[string]struct {
		learned routes
		outside []netip.Addr
		want    []Stranger
	}{
		"our own": {learned: routes{prefix("10.244.2.0/24"): {addr("10.0.0.2")}}},
		"another cluster's": {learned: routes{prefix("10.245.2.0/24"): {addr("10.0.9.2")}},
			want: []Stranger{{Prefix: prefix("10.245.2.0/24"), Via: addr("10.0.9.2")}}},
		"the same pods": {learned: routes{prefix("10.244.2.0/24"): {addr("10.0.0.2"), addr("10.0.9.2")}},
			want: []Stranger{{Prefix: prefix("10.244.2.0/24"), Via: addr("10.0.9.2"), Owner: "node2"}}},
		"of a router":                     {learned: routes{prefix("172.16.0.0/12"): {router}}, outside: []netip.Addr{router}},
		"of a third party of a router":    {learned: routes{prefix("172.16.0.0/12"): {addr("10.0.0.253")}}, outside: []netip.Addr{router}},
		"our pods at a stranger's router": {learned: routes{prefix("10.244.1.128/25"): {addr("10.0.9.9")}}, outside: []netip.Addr{router}, want: []Stranger{{Prefix: prefix("10.244.1.128/25"), Via: addr("10.0.9.9"), Owner: "node1"}}},
	} {
		got := Strangers(c.learned, names, pods, c.outside)
		if d := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
