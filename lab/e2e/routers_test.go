//go:build overlay

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// annotate puts an annotation on a node, or takes it off with "-" after its key.
func annotate(t *testing.T, node int, annotation string) {
	t.Helper()
	must(t, "kubectl annotate --overwrite node node%d kube-router.io/%s", node, annotation)
}

// roles are the peers of a node and what they are to it, as "node2 reflector",
// with those that are not established left out.
func roles(out string) []string {
	var found []string
	for _, line := range strings.Split(out, "\n")[1:] {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "Established" {
			found = append(found, f[1]+" "+f[3])
		}
	}
	slices.Sort(found)
	return found
}

func hasRoles(t *testing.T, node int, want ...string) {
	t.Helper()
	eventually(t, func(out string, err error) bool { return err == nil && slices.Equal(roles(out), want) },
		"kubectl -n kube-system exec %s -- kube-router --show-bgp-peers", agentOf(t, node))
}

// Reflectors come and go while a Pod sends up to a thousand packets a second to
// another, whose node it knows from reflectors alone: not one may be lost.
func TestReflectorsUnderTraffic(t *testing.T) {
	flags(t)(t, "--nodes-full-mesh=false")
	t.Cleanup(func() {
		for n := 1; n <= 3; n++ {
			if out, err := sh(context.Background(), fmt.Sprintf("kubectl annotate node node%d kube-router.io/node.bgp.routereflector.cluster-id-", n)); err != nil {
				t.Errorf("the annotation stays: %s", out)
			}
		}
	})
	const reflector = "node.bgp.routereflector.cluster-id"
	annotate(t, 2, reflector+"=1.0.0.1")
	hasRoles(t, 1, "node2 reflector")
	hasRoles(t, 2, "node1 client", "node3 client")

	const ns = "reflectors"
	create(t, ns)
	server := serve(t, ns, "server", 3)
	from := client(t, ns, "client", 1)
	connects(t, ns, "client", "http://"+server+":8080/hostname")

	packets := startFlow(t, 1, from, server)
	t.Log("a second reflector")
	annotate(t, 3, reflector+"=1.0.0.1")
	hasRoles(t, 1, "node2 reflector", "node3 reflector")
	hasRoles(t, 2, "node1 client", "node3 client") // reflectors serve each other
	t.Log("the first one is none any more")
	annotate(t, 2, reflector+"-")
	hasRoles(t, 1, "node3 reflector")
	hasRoles(t, 2, "node3 reflector")
	t.Log("and the sender becomes one")
	annotate(t, 1, reflector+"=1.0.0.1")
	hasRoles(t, 2, "node1 reflector", "node3 reflector")
	packets.lostNone(t)
}

// onPeer is a command that runs on the router outside of the cluster.
func onPeer(format string, args ...any) string {
	return fmt.Sprintf("%s exec --node peer %s", lab, quote(fmt.Sprintf(format, args...)))
}

// peerRoutes wants the routes of that router that it has learned for some
// prefixes: to these nodes each, none where there are none.
func peerRoutes(t *testing.T, want map[string][]int) {
	t.Helper()
	lines := map[string]string{}
	for prefix, nodes := range want {
		var hops []string
		for _, n := range nodes {
			ip := nodeIP(t, n)
			if n == 2 { // behind the router
				ip = strings.Fields(must(t, "%s", onPeer("ip route get %s", ip)))[2]
			}
			hops = append(hops, ip)
		}
		slices.Sort(hops)
		lines[prefix] = strings.Join(hops, " ")
	}
	eventually(t, func(out string, err error) bool {
		if err != nil {
			return false
		}
		got := map[string]string{}
		for line := range strings.SplitSeq(out, "\n") {
			if line == "" {
				continue
			}
			var hops []string
			for _, via := range regexp.MustCompile(`via (\S+)`).FindAllStringSubmatch(line, -1) {
				hops = append(hops, via[1])
			}
			slices.Sort(hops)
			got[strings.Fields(line)[0]] = strings.Join(hops, " ")
		}
		for prefix, hops := range lines {
			if got[prefix] != hops {
				return false
			}
		}
		return true
	}, "%s", onPeer("ip -o route show proto bird"))
}

// A router outside of the cluster, BIRD, learns the Pods' networks and the
// addresses of Services, as long as there is somebody to answer, and packets
// that it sends there arrive.
func TestRouterOutside(t *testing.T) {
	address := strings.Fields(must(t, "%s", onPeer("ip -4 -o address show dev eth0")))[3]
	address, _, _ = strings.Cut(address, "/")
	lan := strings.Fields(must(t, "%s", onPeer("ip -4 -o route show dev lan0")))[0]
	flags(t)(t, "--enable-overlay", "--peer-router-ips="+address, "--peer-router-asns=64600", "--peer-router-multihop-ttl=4",
		"--advertise-cluster-ip", "--service-external-ip-range=203.0.113.0/24", "--advertise-external-ip")
	peerRoutes(t, map[string][]int{podCIDR(t, 1): {1}, podCIDR(t, 2): {2}, podCIDR(t, 3): {3}})
	eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, lan+" via "+address) },
		"%s exec --node 1 'ip route show proto 17'", lab)
	eventually(t, func(out string, err error) bool {
		return err == nil && regexp.MustCompile(regexp.QuoteMeta(address)+` .*external .*Established`).MatchString(out)
	}, "kubectl -n kube-system exec %s -- kube-router --show-bgp-peers", agentOf(t, 2))

	near := []int{1, 3} // BIRD prefers them to node2, which is behind another router
	const ns, local = "router-outside", "203.0.113.10"
	create(t, ns)
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: node3
  terminationGracePeriodSeconds: 40
  containers:
  - name: agnhost
    image: %s
    args: [netexec, --http-port=8080, --delay-shutdown=35]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
`, agnhost))
	server := podIP(t, ns, "server")
	apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  selector: {app: server}
  externalIPs: [`+local+`]
  type: LoadBalancer
  externalTrafficPolicy: Local
  ports: [{port: 80, targetPort: 8080}]
`)
	vip := must(t, "kubectl -n %s get service server -o jsonpath='{.spec.clusterIP}'", ns)
	peerRoutes(t, map[string][]int{vip: near, local: {3}})
	eventually(t, succeeds, "%s", onPeer("curl -sS --max-time 3 http://%s/hostname", vip))
	eventually(t, func(out string, err error) bool { return err == nil && strings.HasPrefix(out, address+":") },
		"%s", onPeer("curl -sS --max-time 3 http://%s/clientip", local))

	// The address is withdrawn while the Pod still serves, not when it is gone.
	must(t, "kubectl -n %s delete pod server --wait=false", ns)
	peerRoutes(t, map[string][]int{vip: near, local: nil})
	if out := onNode(t, 3, "curl -sS --max-time 3 http://"+server+":8080/hostname"); out != "server" {
		t.Errorf("when the address was withdrawn the Pod that terminates answered %q", out)
	}
	must(t, "kubectl -n %s delete pod server --force --grace-period=0", ns)
	must(t, "kubectl -n %s wait --for=delete pod/server --timeout=%s", ns, patience)
	serve(t, ns, "server", 1)
	peerRoutes(t, map[string][]int{local: {1}})
	must(t, "kubectl -n %s delete service server local", ns)
	peerRoutes(t, map[string][]int{vip: nil, local: nil})
}
