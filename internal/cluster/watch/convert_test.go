package watch

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/kube-router/kube-router/internal/cluster"
)

// conversion is an object as a user writes it, and what the model has of it:
// a line for each thing, and "!" before each problem.
type conversion struct{ name, object, want string }

func testConversions[A, T any](t *testing.T, convert func(*A) (cluster.Key, *T), describe func(*T) string, cases []conversion) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var object A
			if err := yaml.UnmarshalStrict([]byte(tc.object), &object); err != nil {
				t.Fatal(err)
			}
			key, converted := convert(&object)
			got := key.String() + " is not served\n"
			if converted != nil {
				meta := identity(converted)
				if meta.Key != key {
					t.Errorf("key %s of object %s", key, meta.Key)
				}
				got = key.String() + "\n" + describe(converted)
				for _, problem := range meta.Problems {
					got += "! " + problem + "\n"
				}
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// list is "title a b c" on a line, or nothing where there are none.
func list[E any](title string, elements []E) string {
	if len(elements) == 0 {
		return ""
	}
	words := make([]string, len(elements))
	for i, e := range elements {
		words[i] = fmt.Sprint(e)
	}
	return title + " " + strings.Join(words, " ") + "\n"
}

func describeNode(n *cluster.Node) string {
	s := list("internal", n.InternalIPs) + list("external", n.ExternalIPs) + list("pods", n.PodCIDRs)
	if n.Labels != nil {
		s += fmt.Sprintln("labels", n.Labels)
	}
	if n.Annotations != nil {
		s += fmt.Sprintln("annotations", n.Annotations)
	}
	return s
}

func TestNodeFrom(t *testing.T) {
	testConversions(t, nodeFrom, describeNode, []conversion{
		{"dual stack", `
metadata:
  name: node-1
  labels: {topology.kubernetes.io/zone: z1, kubernetes.io/os: linux}
  annotations: {kube-router.io/node.asn: "64513", node.alpha.kubernetes.io/ttl: "0"}
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.7/24, "fd00:1::/64"]
status:
  addresses:
  - {type: InternalIP, address: 192.168.1.11}
  - {type: InternalIP, address: "fd00::b"}
  - {type: InternalIP, address: "::ffff:192.168.1.11"}
  - {type: ExternalIP, address: 203.0.113.7}
  - {type: Hostname, address: node-1}`, `
node-1
internal 192.168.1.11 fd00::b
external 203.0.113.7
pods 10.244.1.0/24 fd00:1::/64
labels map[topology.kubernetes.io/zone:z1]
annotations map[kube-router.io/node.asn:64513]
`},
		{"before its pod CIDR", `{metadata: {name: new}}`, "new\n"},
		{"pod CIDR of old", `{metadata: {name: old}, spec: {podCIDR: 10.244.1.0/24}}`, "old\npods 10.244.1.0/24\n"},
		{"hostile", `
metadata: {name: bad}
spec: {podCIDRs: [10.244.1.0/24, 10.244.2.0/24, 10.244.3.0, "::ffff:10.0.0.0/120", "::/0"]}
status: {addresses: [{type: InternalIP, address: 192.168.1.256}, {type: InternalIP, address: "fe80::1%eth0"}, {type: InternalIP, address: 0.0.0.0}, {type: ExternalIP, address: "ff02::1"}]}`, `
bad
pods 10.244.1.0/24
! spec.podCIDRs[1]: 10.244.2.0/24 is the second of its address family; it is left out
! spec.podCIDRs[2]: "10.244.3.0" is not a CIDR; it is left out
! spec.podCIDRs[3]: "::ffff:10.0.0.0/120" is not a CIDR; it is left out
! spec.podCIDRs[4]: ::/0 is the whole world; it is left out
! status.addresses[0]: "192.168.1.256" is not the IP address of a host; it is left out
! status.addresses[1]: "fe80::1%eth0" is not the IP address of a host; it is left out
! status.addresses[2]: "0.0.0.0" is not the IP address of a host; it is left out
! status.addresses[3]: "ff02::1" is not the IP address of a host; it is left out
`},
	})
}

func describeService(s *cluster.Service) string {
	text := list("cluster", s.ClusterIPs) + list("external", s.ExternalIPs) + list("loadbalancer", s.LoadBalancerIPs)
	for _, p := range s.Ports {
		text += fmt.Sprintf("port %q %d/%s", p.Name, p.Port, p.Protocol)
		if p.NodePort != 0 {
			text += fmt.Sprintf(" node port %d", p.NodePort)
		}
		text += "\n"
	}
	if s.InternalLocal {
		text += "internal local\n"
	}
	if s.ExternalLocal {
		text += "external local\n"
	}
	if s.AffinityTimeout != 0 {
		text += fmt.Sprintln("affinity", s.AffinityTimeout)
	}
	if s.Restricted {
		text += fmt.Sprintln("sources", s.SourceRanges)
	}
	if s.HealthCheckNodePort != 0 {
		text += fmt.Sprintln("health check port", s.HealthCheckNodePort)
	}
	if s.Annotations != nil {
		text += fmt.Sprintln("annotations", s.Annotations)
	}
	return text
}

func TestServiceFrom(t *testing.T) {
	testConversions(t, serviceFrom, describeService, []conversion{
		{"cluster IP", `
metadata: {namespace: default, name: web}
spec:
  type: ClusterIP
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ports: [{name: http, port: 80, targetPort: http}, {name: dns, protocol: UDP, port: 80}, {port: 9, protocol: SCTP}]`, `
default/web
cluster 10.96.0.10 fd00:96::a
port "http" 80/tcp
port "dns" 80/udp
port "" 9/sctp
`},
		{"load balancer with everything", `
metadata: {namespace: default, name: lb, annotations: {kube-router.io/service.scheduler: lc, other: x}}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  externalIPs: [192.0.2.1, 192.0.2.1]
  ports: [{port: 80, nodePort: 30080}]
  sessionAffinity: ClientIP
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
status:
  loadBalancer:
    ingress: [{ip: 198.51.100.1, ipMode: VIP}, {ip: 198.51.100.2}, {ip: 198.51.100.3, ipMode: Proxy}, {hostname: lb.example.com}]`, `
default/lb
cluster 10.96.0.10
external 192.0.2.1
loadbalancer 198.51.100.1 198.51.100.2
port "" 80/tcp node port 30080
internal local
external local
affinity 3h0m0s
annotations map[kube-router.io/service.scheduler:lc]
`},
		{"load balancer for some, with a health check", `
metadata: {namespace: default, name: lb}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  loadBalancerSourceRanges: [203.0.113.7/24, "2001:db8::/32", 203.0.113.0/24, 203.0.113]
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000`, `
default/lb
cluster 10.96.0.10
external local
sources [203.0.113.0/24 2001:db8::/32]
health check port 31000
! spec.loadBalancerSourceRanges[3]: "203.0.113" is not a CIDR; it is left out
`},
		{"load balancer for some, of old", `
metadata: {namespace: a, name: b, annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: "10.0.0.0/8, 192.168.0.0/16"}}
spec: {type: LoadBalancer, clusterIP: 10.96.0.10, healthCheckNodePort: 31000}`, `
a/b
cluster 10.96.0.10
sources [10.0.0.0/8 192.168.0.0/16]
`},
		{"load balancer for whom nobody can tell is for nobody", `
metadata: {namespace: a, name: b}
spec: {type: LoadBalancer, clusterIP: 10.96.0.10, loadBalancerSourceRanges: [all]}`, `
a/b
cluster 10.96.0.10
sources []
! spec.loadBalancerSourceRanges[0]: "all" is not a CIDR; it is left out
`},
		{"affinity with a timeout", `
metadata: {namespace: a, name: b}
spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}}`,
			"a/b\ncluster 10.96.0.1\naffinity 1m0s\n"},
		{"what is left of another type", `
metadata: {namespace: a, name: b}
spec: {type: ClusterIP, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.1}]}}`,
			"a/b\ncluster 10.96.0.1\nport \"\" 80/tcp\n"},
		{"this proxy's by label", `
metadata: {namespace: a, name: b, labels: {service.kubernetes.io/service-proxy-name: kube-router}}
spec: {clusterIP: 10.96.0.1}`, "a/b\ncluster 10.96.0.1\n"},
		{"another proxy's by label", `
metadata: {namespace: a, name: b, labels: {service.kubernetes.io/service-proxy-name: cilium}}
spec: {clusterIP: 10.96.0.1}`, "a/b is not served\n"},
		{"headless", `{metadata: {namespace: a, name: b}, spec: {clusterIP: None}}`, "a/b is not served\n"},
		{"headless by label", `
metadata: {namespace: a, name: b, labels: {service.kubernetes.io/headless: ""}}
spec: {clusterIP: 10.96.0.1}`, "a/b is not served\n"},
		{"external name", `{metadata: {namespace: a, name: b}, spec: {type: ExternalName, externalName: example.com}}`, "a/b is not served\n"},
		{"hostile", `
metadata: {namespace: a, name: b}
spec:
  type: NodePort
  clusterIPs: [10.96.0.300, 127.0.0.1, 169.254.169.254]
  externalIPs: [0.0.0.0, "::1", 224.0.0.5, 255.255.255.255]
  ports: [{port: 0}, {port: 65536}, {port: -1}, {port: 80, nodePort: 70000}, {port: 80}, {port: 81, protocol: ICMP}]`, `
a/b
port "" 80/tcp
! spec.clusterIPs[0]: "10.96.0.300" is not an IP address; it is left out
! spec.clusterIPs[1]: 127.0.0.1 is reserved (loopback, link-local, multicast or unspecified); it is left out
! spec.clusterIPs[2]: 169.254.169.254 is reserved (loopback, link-local, multicast or unspecified); it is left out
! spec.externalIPs[0]: 0.0.0.0 is reserved (loopback, link-local, multicast or unspecified); it is left out
! spec.externalIPs[1]: ::1 is reserved (loopback, link-local, multicast or unspecified); it is left out
! spec.externalIPs[2]: 224.0.0.5 is reserved (loopback, link-local, multicast or unspecified); it is left out
! spec.externalIPs[3]: 255.255.255.255 is reserved (loopback, link-local, multicast or unspecified); it is left out
! spec.ports[0].port: 0 is not a port; it is left out
! spec.ports[1].port: 65536 is not a port; it is left out
! spec.ports[2].port: -1 is not a port; it is left out
! and 3 more
`},
		{"hostile affinity", `
metadata: {namespace: a, name: b}
spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: -5}}}`, `
a/b
cluster 10.96.0.1
affinity 3h0m0s
! spec.sessionAffinityConfig.clientIP.timeoutSeconds: -5 is not within 1 to 86400; 10800 is taken
`},
	})
}

func describeSlice(s *cluster.EndpointSlice) string {
	text := fmt.Sprintln("of", s.Service)
	for _, p := range s.Ports {
		text += fmt.Sprintf("port %q %d/%s\n", p.Name, p.Port, p.Protocol)
	}
	for _, e := range s.Endpoints {
		text += fmt.Sprintf("%s on %q", e.Addr, e.Node)
		for _, c := range []struct {
			name string
			set  bool
		}{{"ready", e.Ready}, {"serving", e.Serving}, {"terminating", e.Terminating}} {
			if c.set {
				text += " " + c.name
			}
		}
		if e.Hints != nil {
			text += fmt.Sprintf(" for zones %v, nodes %v", e.Hints.Zones, e.Hints.Nodes)
		}
		text += "\n"
	}
	return text
}

func TestEndpointSliceFrom(t *testing.T) {
	testConversions(t, endpointSliceFrom, describeSlice, []conversion{
		{"conditions and their defaults", `
metadata: {namespace: default, name: web-x1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {port: 53, protocol: UDP}, {name: any}]
endpoints:
- {addresses: [10.244.1.2, 10.244.1.9], nodeName: node-1, conditions: {ready: true, serving: true, terminating: false}}
- {addresses: [10.244.1.3], nodeName: node-1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.244.2.4], conditions: {ready: false, serving: false}}
- {addresses: [10.244.2.5], hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: node-2}]}}`, `
default/web-x1
of default/web
port "http" 8080/tcp
port "" 53/udp
10.244.1.2 on "node-1" ready serving
10.244.1.3 on "node-1" serving terminating
10.244.2.4 on ""
10.244.2.5 on "" ready serving for zones [z1 z2], nodes [node-2]
`},
		{"IPv6", `
metadata: {namespace: a, name: b, labels: {kubernetes.io/service-name: c}}
addressType: IPv6
ports: [{port: 1}]
endpoints: [{addresses: ["fd00::1"]}]`, "a/b\nof a/c\nport \"\" 1/tcp\nfd00::1 on \"\" ready serving\n"},
		{"names", `
metadata: {namespace: a, name: b, labels: {kubernetes.io/service-name: c}}
addressType: FQDN
ports: []
endpoints: [{addresses: [example.com]}]`, "a/b is not served\n"},
		{"headless", `
metadata: {namespace: a, name: b, labels: {kubernetes.io/service-name: c, service.kubernetes.io/headless: ""}}
addressType: IPv4
ports: []
endpoints: []`, "a/b is not served\n"},
		{"of no Service", `{metadata: {namespace: a, name: b}, addressType: IPv4, ports: [], endpoints: []}`, "a/b is not served\n"},
		{"hostile", `
metadata: {namespace: a, name: b, labels: {kubernetes.io/service-name: c}}
addressType: IPv4
ports: [{port: 0}, {port: 65536}, {port: 80, protocol: http}]
endpoints:
- {addresses: []}
- {addresses: [127.0.0.1]}
- {addresses: ["fd00::1"]}
- {addresses: [nonsense]}
- {addresses: [10.0.0.1]}`, `
a/b
of a/c
10.0.0.1 on "" ready serving
! ports[0].port: 0 is not a port; it is left out
! ports[1].port: 65536 is not a port; it is left out
! ports[2].protocol: "http" is not TCP, UDP or SCTP; the port is left out
! endpoints[0].addresses: there is none; the endpoint is left out
! endpoints[1].addresses[0]: 127.0.0.1 is reserved (loopback, link-local, multicast or unspecified); it is left out
! endpoints[2].addresses[0]: fd00::1 is not of the slice's addressType "IPv4"; it is left out
! endpoints[3].addresses[0]: "nonsense" is not an IP address; it is left out
`},
	})
}

// Pod CIDRs of the annotations stand in for those of the spec.
func TestPodCIDRsOfAnnotations(t *testing.T) {
	for _, tc := range []struct {
		annotations map[string]string
		want        string
		problems    int
	}{
		{nil, "[10.244.1.0/24]", 0},
		{map[string]string{"kube-router.io/pod-cidr": "10.9.0.0/24"}, "[10.9.0.0/24]", 0},
		{map[string]string{"kube-router.io/pod-cidrs": "10.9.0.0/24, fd00::/64", "kube-router.io/pod-cidr": "10.8.0.0/24"}, "[10.9.0.0/24 fd00::/64]", 0},
		{map[string]string{"kube-router.io/pod-cidrs": "10.9.0.0/24,10.8.0.0/24,banana"}, "[10.9.0.0/24]", 2},
		{map[string]string{"kube-router.io/pod-cidrs": "banana"}, "[10.244.1.0/24]", 1},
	} {
		node := &corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}}}
		node.Name, node.Annotations = "n1", tc.annotations
		_, got := nodeFrom(node)
		if fmt.Sprint(got.PodCIDRs) != tc.want || len(got.Problems) != tc.problems {
			t.Errorf("%v: got %v with problems %q, want %s with %d", tc.annotations, got.PodCIDRs, got.Problems, tc.want, tc.problems)
		}
	}
}
