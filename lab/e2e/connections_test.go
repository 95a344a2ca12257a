//go:build e2e

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func TestSessionAffinity(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	serve(t, ns, "a", 2)
	serve(t, ns, "b", 3)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP")+"  sessionAffinity: ClientIP\n")
	address := clusterIP(t, ns)
	first := connects(t, ns, "client", "http://"+address+"/hostname")
	out := must(t, "%s", in(ns, "client", "for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS --max-time 3 http://"+address+"/hostname; echo; done"))
	if got := strings.Count(out, first); got != 10 {
		t.Errorf("%d of 10 requests went to %s, where the first went:\n%s", got, first, out)
	}
}

// A client of a datagram service that never changes its port moves on when its
// endpoint goes.
func TestDatagramsMoveOn(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	serve(t, ns, "a", 2)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	address := clusterIP(t, ns)
	ask := in(ns, "client", "echo hostname | nc -u -w 2 -p 12345 "+address+" 81")
	eventually(t, func(out string, err error) bool { return err == nil && out == "a" }, "%s", ask)
	serve(t, ns, "b", 3)
	must(t, "kubectl -n %s delete pod a", ns)
	eventually(t, func(out string, err error) bool { return err == nil && out == "b" }, "%s", ask)
}

// While the last endpoint terminates and still serves, it is used.
func TestTerminatingEndpointServes(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: last, labels: {app: server}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 40
  containers:
  - name: agnhost
    image: %s
    args: [netexec, --http-port=8080, --delay-shutdown=35]
    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
`, agnhost))
	podIP(t, ns, "last")
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	address := clusterIP(t, ns)
	connects(t, ns, "client", "http://"+address+"/hostname")
	must(t, "kubectl -n %s delete pod last --wait=false", ns)
	eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, "true") },
		"kubectl -n %s get endpointslice -l kubernetes.io/service-name=server -o jsonpath='{.items[0].endpoints[0].conditions.terminating}'", ns)
	for range 5 {
		if out := must(t, "%s", get(ns, "client", "http://"+address+"/hostname")); out != "last" {
			t.Errorf("got %q", out)
		}
	}
}

func TestSCTP(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers:
  - name: agnhost
    image: %s
    args: [porter]
    env: [{name: SERVE_SCTP_PORT_8082, value: sctp}]
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports: [{port: 82, targetPort: 8082, protocol: SCTP}]
`, agnhost))
	podIP(t, ns, "server")
	eventually(t, succeeds, "%s", in(ns, "client", "/agnhost connect --protocol=sctp --timeout=3s "+clusterIP(t, ns)+":82"))
}

// What is broken by hand is repaired at the next resync.
func TestVirtualServersComeBack(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	serve(t, ns, "a", 2)
	apply(t, ns, fmt.Sprintf(service, "NodePort")+"  externalIPs: []\n")
	address := clusterIP(t, ns)
	connects(t, ns, "client", "http://"+address+"/hostname")
	const metrics = "%s exec --node 1 'curl -sS --max-time 5 http://127.0.0.1:%s/metrics'"
	before := repairs(must(t, metrics, lab, metricsPort))
	if before < 0 {
		t.Fatal("repairs are not counted")
	}
	onNode(t, 1, "ipvsadm -C; ip route flush table local proto 17; ipset flush kube-router-svip-prt")
	connects(t, ns, "client", "http://"+address+"/hostname")
	eventually(t, func(out string, err error) bool { return err == nil && repairs(out) > before }, metrics, lab, metricsPort)
	must(t, "kubectl -n %s annotate service server kube-router.io/service.scheduler=wlc", ns)
	eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, address+":80 wlc") }, "%s exec --node 1 'ipvsadm -Ln'", lab)
	must(t, "kubectl -n %s annotate --overwrite service server kube-router.io/service.scheduler=best", ns)
	eventually(t, func(out string, err error) bool { return err == nil && out == "UnknownScheduler" },
		"kubectl -n %s get events --field-selector involvedObject.name=server,reason=UnknownScheduler -o jsonpath='{.items[0].reason}'", ns)
	eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, address+":80 rr") }, "%s exec --node 1 'ipvsadm -Ln'", lab)
}

// repairs is how often the service proxy has put back what others had changed,
// by the agent's metrics: -1 where they do not say.
func repairs(metrics string) int {
	for line := range strings.Lines(metrics) {
		if value, ok := strings.CutPrefix(line, `kube_router_controller_repairs_total{controller="services"} `); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
				return n
			}
		}
	}
	return -1
}
