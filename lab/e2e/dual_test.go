//go:build dual

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

var lab = os.Getenv("LAB")

// family is what a cluster has of one family. i is its place in lists of both.
type family struct {
	name                           string
	i                              int
	node, far, clientIP, vip, cidr string
}

// families are those of the cluster.
func families(t *testing.T, ns string) (list []family) {
	for i, cidr := range strings.Fields(field(t, "node node2", ".spec.podCIDRs[*]")) {
		f := family{name: "IPv4", i: i, cidr: cidr}
		if strings.Contains(cidr, ":") {
			f.name = "IPv6"
		}
		f.node = field(t, "node node2", fmt.Sprintf(".status.addresses[%d].address", i))
		f.far, f.clientIP, f.vip = podAddress(t, ns, "server", i), podAddress(t, ns, "client", i), vipOf(t, ns, "server", i)
		list = append(list, f)
	}
	return list
}

func (f family) host(ip string) string {
	if f.name == "IPv6" {
		return "[" + ip + "]"
	}
	return ip
}

// TestDualStack has one server on node 2 and clients on both nodes, and asks
// for everything in IPv4 and in IPv6, or in IPv6 alone if that is all there is.
func TestDualStack(t *testing.T) {
	const ns = "dual"
	create(t, ns)
	serve(t, ns, "server", 2)
	client(t, ns, "near", 2)
	client(t, ns, "client", 1)
	apply(t, ns, dualService)
	families := families(t, ns)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			t.Run("routes", func(t *testing.T) { routed(t, ns, f) })
			t.Run("cluster IP", func(t *testing.T) { served(t, ns, f) })
			t.Run("node port", func(t *testing.T) { nodePorts(t, ns, f) })
		})
	}
	t.Run("a Service of IPv6 alone", func(t *testing.T) { sixAlone(t, ns) })
	t.Run("policies", func(t *testing.T) { dualPolicies(t, ns, families) })
	t.Run("a restart of the agents loses nothing of IPv6", func(t *testing.T) { restarts(t, families[len(families)-1]) })
	t.Run("all is well", func(t *testing.T) {
		for n := 1; n <= 2; n++ {
			eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, "all is well") },
				"kubectl -n kube-system exec %s -- kube-router status", agentOf(t, n))
		}
	})
}

const dualService = `
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
  - {name: udp, port: 81, targetPort: 8081, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`

func field(t *testing.T, object, path string) string {
	t.Helper()
	return must(t, "kubectl get %s -o jsonpath='{%s}'", object, path)
}

func podAddress(t *testing.T, ns, name string, i int) string {
	t.Helper()
	return field(t, "-n "+ns+" pod "+name, fmt.Sprintf(".status.podIPs[%d].ip", i))
}

func vipOf(t *testing.T, ns, name string, i int) string {
	t.Helper()
	return field(t, "-n "+ns+" service "+name, fmt.Sprintf(".spec.clusterIPs[%d]", i))
}

// routed wants node 1 to have learned the Pods of node 2 by BGP, and packets to
// arrive there with the address of the Pod that sends them.
func routed(t *testing.T, ns string, f family) {
	routes := map[string]string{"IPv4": "ip -4", "IPv6": "ip -6"}[f.name]
	eventually(t, func(out string, err error) bool {
		return err == nil && strings.HasPrefix(out, f.cidr+" via "+f.node+" ")
	}, "%s exec --node 1 '%s route show proto 17 %s'", lab, routes, f.cidr)
	for pod, want := range map[string]string{"client": f.clientIP, "near": ""} {
		out := connects(t, ns, pod, "http://"+f.host(f.far)+":8080/clientip")
		if want != "" && !strings.HasPrefix(out, f.host(want)+":") {
			t.Errorf("the server saw %s, the client is %s", out, want)
		}
	}
}

// served wants the cluster IP to answer Pods, the server itself and nodes.
func served(t *testing.T, ns string, f family) {
	url := "http://" + f.host(f.vip)
	for _, pod := range []string{"client", "near", "server"} {
		if out := connects(t, ns, pod, url+"/hostname"); out != "server" {
			t.Errorf("%s reached %q", pod, out)
		}
	}
	if out := connects(t, ns, "client", url+"/clientip"); !strings.HasPrefix(out, f.host(f.clientIP)+":") {
		t.Errorf("through the Service the server saw %s, the client is %s", out, f.clientIP)
	}
	eventually(t, func(out string, err error) bool { return err == nil && out == "server" },
		"%s", in(ns, "client", "echo hostname | nc -u -w 2 "+f.vip+" 81"))
	for n := 1; n <= 2; n++ {
		if out := onNode(t, n, "curl -sS --max-time 5 '"+url+"/hostname'"); out != "server" {
			t.Errorf("node %d reached %q", n, out)
		}
		if out := onNode(t, n, "ipvsadm -Ln"); !strings.Contains(out, "TCP  "+f.host(f.vip)+":80 ") || !strings.Contains(out, "UDP  "+f.host(f.vip)+":81 ") {
			t.Errorf("node %d:\n%s", n, out)
		}
	}
	blocked(t, ns, "client", url+":22")
}

// nodePorts wants both nodes to answer the host of the lab, which is outside of
// the cluster, and with the traffic policy Local only the one with the server,
// which then sees who asks.
func nodePorts(t *testing.T, ns string, f family) {
	const ask = "curl -sS --noproxy '*' --max-time 3 'http://%s:%s/%s'"
	other := field(t, "node node1", fmt.Sprintf(".status.addresses[%d].address", f.i))
	port := field(t, "-n "+ns+" service server", ".spec.ports[0].nodePort")
	for _, node := range []string{f.node, other} {
		eventually(t, func(out string, err error) bool { return err == nil && out == "server" }, ask, f.host(node), port, "hostname")
	}
	local := field(t, "-n "+ns+" service local", ".spec.ports[0].nodePort")
	gateway := must(t, "ip route get %s | sed -n 's/.* src \\([^ ]*\\) .*/\\1/p'", f.node)
	eventually(t, func(out string, err error) bool { return err == nil && strings.HasPrefix(out, f.host(gateway)+":") },
		ask, f.host(f.node), local, "clientip")
	if out, err := sh(t.Context(), fmt.Sprintf(ask, f.host(other), local, "hostname")); err == nil {
		t.Errorf("node 1, which has no endpoint, answers %q", out)
	}
}

// sixAlone wants a Service without an IPv4 address to work, by its name too.
func sixAlone(t *testing.T, ns string) {
	apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilies: [IPv6]
  ipFamilyPolicy: SingleStack
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`)
	for _, host := range []string{"[" + vipOf(t, ns, "six", 0) + "]", "six"} {
		if out := connects(t, ns, "client", "http://"+host+"/hostname"); out != "server" {
			t.Errorf("%s: reached %q", host, out)
		}
	}
}

// dualPolicies wants a policy to hold in both families, one that names an
// address only in that one's, and neighbours to find each other all the while.
func dualPolicies(t *testing.T, ns string, families []family) {
	urls, both, six := map[string][]string{}, []string(nil), families[len(families)-1]
	for _, f := range families {
		urls[f.name] = []string{"http://" + f.host(f.far) + ":8080/hostname", "http://" + f.host(f.vip) + "/hostname"}
		both = append(both, urls[f.name]...)
	}
	clients := []string{"client", "near"}
	allow := func(peer string) {
		apply(t, ns, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [%s]
`, peer))
	}
	allow("")
	each(clients, both, func(pod, url string) { blocked(t, ns, pod, url) })
	allow("{from: [{podSelector: {matchLabels: {name: client}}}]}")
	each(clients[:1], both, func(pod, url string) { connects(t, ns, pod, url) })
	each(clients[1:], both, func(pod, url string) { blocked(t, ns, pod, url) })
	allow("{from: [{ipBlock: {cidr: 'fd00:10:244::/56', except: ['" + six.clientIP + "/128']}}]}")
	each(clients, urls["IPv4"], func(pod, url string) { blocked(t, ns, pod, url) })
	each(clients[:1], urls["IPv6"], func(pod, url string) { blocked(t, ns, pod, url) })
	each(clients[1:], urls["IPv6"], func(pod, url string) { connects(t, ns, pod, url) })
	must(t, "kubectl -n %s wait --for=condition=Ready pod --all --timeout=10s", ns)
	must(t, "kubectl -n %s delete networkpolicy allow", ns)
	each(clients, both, func(pod, url string) { connects(t, ns, pod, url) })
}

// restarts wants packets and requests to go on while the agents restart, node
// after node.
func restarts(t *testing.T, f family) {
	packets := startFlow(t, 1, f.clientIP, f.far)
	requests := startRequests(t, "requests", 1, f.clientIP, f.vip+":80", "0.05")
	before := agentOf(t, 1)
	must(t, "kubectl -n kube-system rollout restart daemonset/kube-router && kubectl -n kube-system rollout status daemonset/kube-router --timeout=180s")
	if agentOf(t, 1) == before {
		t.Error("the agent of node 1 is the same as before")
	}
	packets.lostNone(t)
	requests.all(t, true)
}
