package watch

import (
	"fmt"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
)

// describeAsked is what a Service asks of a load balancer's controller.
func describeAsked(s *cluster.Service) string {
	l := s.LoadBalancer
	if l == nil {
		return "asks for nothing\n"
	}
	text := fmt.Sprintf("wanted %v class %q\n", l.Wanted, l.Class) +
		list("families", l.Families) + list("requested", l.Requested) + list("ingress", l.Ingress)
	if !l.Created.IsZero() {
		text += fmt.Sprintln("created", l.Created.UTC().Format(time.RFC3339))
	}
	if l.AllFamilies {
		text += "all families\n"
	}
	if l.AnyFamily {
		text += "any family\n"
	}
	return text
}

func TestLoadBalancerFrom(t *testing.T) {
	testConversions(t, serviceFrom, describeAsked, []conversion{
		{"of another type", `{metadata: {namespace: a, name: b}, spec: {type: NodePort, loadBalancerIP: 192.0.2.1}}`, "a/b\nasks for nothing\n"},
		{"the status as it is", `
metadata: {namespace: a, name: b}
spec: {type: LoadBalancer, clusterIP: 10.96.0.10}
status:
  loadBalancer:
    ingress: [{ip: 198.51.100.1, ipMode: VIP}, {ip: 198.51.100.3, ipMode: Proxy}, {hostname: lb.example.com}]`, `
a/b
wanted true class ""
families IPv4
ingress 198.51.100.1 198.51.100.3 invalid IP
`},
		{"what is left of another type", `
metadata: {namespace: a, name: b}
spec: {type: ClusterIP, clusterIP: 10.96.0.1}
status: {loadBalancer: {ingress: [{ip: 198.51.100.1}]}}`, "a/b\nwanted false class \"\"\ningress 198.51.100.1\n"},
		{"by class, with a request for each family", `
metadata:
  namespace: a
  name: b
  creationTimestamp: "2026-01-02T03:04:05Z"
  annotations: {kube-router.io/service.loadbalancerip: "2001:db8::1, 192.0.2.1"}
spec:
  type: LoadBalancer
  loadBalancerClass: kube-router
  loadBalancerIP: 192.0.2.9
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv6, IPv4]`, `
a/b
wanted true class "kube-router"
families IPv6 IPv4
requested 2001:db8::1 192.0.2.1
created 2026-01-02T03:04:05Z
all families
`},
		{"with a request in its spec", `
metadata: {namespace: a, name: b}
spec: {type: LoadBalancer, loadBalancerIP: 192.0.2.9, ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6]}`, `
a/b
wanted true class ""
families IPv4 IPv6
requested 192.0.2.9
any family
`},
		{"with requests that are none", `
metadata: {namespace: a, name: b, annotations: {kube-router.io/service.loadbalancerip: "192.0.2.1,,x"}}
spec: {type: LoadBalancer, clusterIPs: ["fd00:96::a", 10.96.0.1]}`, `
a/b
wanted true class ""
families IPv6 IPv4
requested 192.0.2.1
! annotation kube-router.io/service.loadbalancerip[1]: "" is not an IP address; it is left out
! annotation kube-router.io/service.loadbalancerip[2]: "x" is not an IP address; it is left out
`},
		{"with a reserved request", `
metadata: {namespace: a, name: b}
spec: {type: LoadBalancer, loadBalancerIP: 127.0.0.1}`, `
a/b
wanted true class ""
! spec.loadBalancerIP: 127.0.0.1 is reserved (loopback, link-local, multicast or unspecified); it is left out
`},
	})
}
