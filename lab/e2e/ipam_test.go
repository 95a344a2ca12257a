//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const asksForAddress = `
apiVersion: v1
kind: Service
metadata: {name: %s, annotations: {kube-router.io/service.loadbalancerip: "%s"}}
spec:
  type: LoadBalancer
  loadBalancerClass: kube-router
  selector: {app: server}
  ports: [{port: 80, targetPort: 8080}]
`

// Services get addresses of the range, which are served from a pod; the address
// of one that goes is the next one's; a restart of the agents changes nothing.
func TestLoadBalancerAddresses(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	serve(t, ns, "server", 2)

	create := func(name, request string) { t.Helper(); apply(t, ns, fmt.Sprintf(asksForAddress, name, request)) }
	has := func(name, want string) {
		t.Helper()
		eventually(t, func(out string, err error) bool { return err == nil && out == want },
			"kubectl -n %s get service %s -o jsonpath='{.status.loadBalancer.ingress[*].ip}'", ns, name)
	}
	createAny := func(name string) {
		t.Helper()
		apply(t, ns, strings.Replace(fmt.Sprintf(asksForAddress, name, ""), `, annotations: {kube-router.io/service.loadbalancerip: ""}`, "", 1))
	}
	create("wish", "203.0.113.10")
	has("wish", "203.0.113.10")
	createAny("any")
	has("any", "203.0.113.9")
	connects(t, ns, "client", "http://203.0.113.9/hostname")

	createAny("last")
	has("last", "203.0.113.200")
	createAny("none")
	event(t, ns, "none", "NoLoadBalancerIP", "all IPv4 addresses are in use")
	must(t, "kubectl -n %s delete service last", ns)
	has("none", "203.0.113.200")
	must(t, "kubectl -n %s delete service none", ns)

	create("waits", "203.0.113.9")
	event(t, ns, "waits", "NoLoadBalancerIP", "203.0.113.9 is in use")
	must(t, "kubectl -n %s delete service any", ns)
	has("waits", "203.0.113.9")

	before := must(t, "kubectl -n %s get services -o jsonpath='{.items[*].metadata.resourceVersion}'", ns)
	holder := must(t, "kubectl -n kube-system get lease kube-router-lballoc -o jsonpath='{.spec.holderIdentity}'")
	must(t, "kubectl -n kube-system delete pod %s", holder)
	eventually(t, func(out string, err error) bool { return err == nil && out != "" && out != holder },
		"kubectl -n kube-system get lease kube-router-lballoc -o jsonpath='{.spec.holderIdentity}'")
	must(t, "kubectl -n kube-system rollout status daemonset/kube-router --timeout=180s")
	if after := must(t, "kubectl -n %s get services -o jsonpath='{.items[*].metadata.resourceVersion}'", ns); after != before {
		t.Errorf("the next leader wrote: versions %s, before %s", after, before)
	}
	create("new", "203.0.113.10")
	must(t, "kubectl -n %s delete service wish", ns)
	has("new", "203.0.113.10")
}
