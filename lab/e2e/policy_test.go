//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const denyAll = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec:
  podSelector: {}
  policyTypes: [%s]
`

// The same policy must hold on one node's bridge, between nodes, and through
// a Service.
func TestIngressPolicy(t *testing.T) {
	ns := namespace(t)
	near := serve(t, ns, "server", 1)
	client(t, ns, "good", 1)
	client(t, ns, "bad", 1)
	client(t, ns, "goodfar", 2)
	client(t, ns, "badfar", 2)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	urls := []string{"http://" + near + ":8080/hostname", "http://" + clusterIP(t, ns) + "/hostname"}
	all := []string{"good", "bad", "goodfar", "badfar"}

	around := linkLocal(t, ns, "server")
	each(all, urls, func(pod, url string) { connects(t, ns, pod, url) })
	// Pods reach each other there only while the node has no isolated one, of
	// whatever namespace: that the address is served, the Pod and its node prove.
	connects(t, ns, "server", around)
	eventually(t, succeeds, "%s exec --node 1 %s", lab, quote("curl -sS --max-time 3 "+strings.ReplaceAll(around, "eth0", "kube-bridge")))
	apply(t, ns, fmt.Sprintf(denyAll, "Ingress"))
	each(all, urls, func(pod, url string) { blocked(t, ns, pod, url) })
	blocked(t, ns, "bad", around)
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchExpressions: [{key: name, operator: In, values: [good, goodfar]}]}}]
    ports: [{protocol: TCP, port: 8080}]
`)
	each([]string{"good", "goodfar"}, urls, func(pod, url string) { connects(t, ns, pod, url) })
	each([]string{"bad", "badfar"}, urls, func(pod, url string) { blocked(t, ns, pod, url) })
	t.Run("the tools show it", func(t *testing.T) { toolsShow(t, 1) })

	must(t, "kubectl -n %s label pod badfar name=good --overwrite", ns)
	connects(t, ns, "badfar", urls[0])
	must(t, "kubectl -n %s delete networkpolicy deny allow", ns)
	each(all, urls, func(pod, url string) { connects(t, ns, pod, url) })
}

func TestEgressPolicy(t *testing.T) {
	ns := namespace(t)
	serve(t, ns, "server", 1)
	far := serve(t, ns, "serverfar", 2)
	client(t, ns, "client", 1)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	vip := "http://" + clusterIP(t, ns) + "/hostname"
	connects(t, ns, "client", vip)
	apply(t, ns, fmt.Sprintf(denyAll, "Egress"))
	blocked(t, ns, "client", vip)
	blocked(t, ns, "client", "http://"+far+":8080/hostname")
	apply(t, ns, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: %s/32}}]
`, far))
	connects(t, ns, "client", "http://"+far+":8080/hostname")
	t.Run("probes of the node's kubelet pass", func(t *testing.T) {
		must(t, "kubectl -n %s wait --for=condition=Ready pod/server pod/serverfar --timeout=10s", ns)
	})
}

func TestNamespaceSelector(t *testing.T) {
	ns := namespace(t)
	other := ns + "-other"
	create(t, other)
	url := "http://" + serve(t, ns, "server", 1) + ":8080/hostname"
	client(t, other, "client", 2)
	apply(t, ns, fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-team}
spec:
  podSelector: {}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {team: %s}}}]
`, ns))
	blocked(t, other, "client", url)
	must(t, "kubectl label namespace %s team=%s", other, ns)
	connects(t, other, "client", url)
	must(t, "kubectl label namespace %s team-", other)
	blocked(t, other, "client", url)
}
