package watch

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
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
spec: {podCIDRs: [10.244.1.0/24, 10.244.2.0/24, 10.244.3.0, "::ffff:10.0.0.0/120"]}
status: {addresses: [{type: InternalIP, address: 192.168.1.256}, {type: InternalIP, address: "fe80::1%eth0"}]}`, `
bad
pods 10.244.1.0/24
! spec.podCIDRs[1]: 10.244.2.0/24 is the second of its address family; it is left out
! spec.podCIDRs[2]: "10.244.3.0" is not a CIDR; it is left out
! spec.podCIDRs[3]: "::ffff:10.0.0.0/120" is not a CIDR; it is left out
! status.addresses[0]: "192.168.1.256" is not an IP address; it is left out
! status.addresses[1]: "fe80::1%eth0" is not an IP address; it is left out
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

func describePod(p *cluster.Pod) string {
	text := list("at", p.IPs)
	if p.Node != "" {
		text += fmt.Sprintln("on", p.Node)
	}
	if len(p.Labels) > 0 {
		text += fmt.Sprintln("labels", p.Labels)
	}
	if p.HostNetwork {
		text += "in the host's network\n"
	}
	if p.Finished {
		text += "finished\n"
	}
	for _, port := range p.Ports {
		text += fmt.Sprintf("port %q %d/%s\n", port.Name, port.Port, port.Protocol)
	}
	return text
}

func TestPodFrom(t *testing.T) {
	testConversions(t, podFrom, describePod, []conversion{
		{"running", `
metadata: {namespace: default, name: web-1, labels: {app: web, tier: front}}
spec:
  nodeName: node-1
  initContainers:
  - {name: setup, ports: [{name: setup, containerPort: 1}]}
  - {name: sidecar, restartPolicy: Always, ports: [{name: metrics, containerPort: 9090}]}
  containers:
  - {name: web, ports: [{name: http, containerPort: 8080, protocol: TCP}, {containerPort: 22}, {name: dns, containerPort: 53, protocol: UDP}]}
status: {phase: Running, podIP: 10.244.1.2, podIPs: [{ip: 10.244.1.2}, {ip: "fd00:1::2"}]}`, `
default/web-1
at 10.244.1.2 fd00:1::2
on node-1
labels app=web,tier=front
port "metrics" 9090/tcp
port "http" 8080/tcp
port "dns" 53/udp
`},
		{"before it has an address", `{metadata: {namespace: a, name: b}, status: {phase: Pending}}`, "a/b\n"},
		{"address of old", `{metadata: {namespace: a, name: b}, status: {podIP: 10.0.0.1}}`, "a/b\nat 10.0.0.1\n"},
		{"host network", `{metadata: {namespace: a, name: b}, spec: {hostNetwork: true, containers: []}, status: {podIP: 10.0.0.1}}`, "a/b\nat 10.0.0.1\nin the host's network\n"},
		{"succeeded", `{metadata: {namespace: a, name: b}, status: {phase: Succeeded, podIP: 10.0.0.1}}`, "a/b\nat 10.0.0.1\nfinished\n"},
		{"failed", `{metadata: {namespace: a, name: b}, status: {phase: Failed}}`, "a/b\nfinished\n"},
		{"hostile", `
metadata: {namespace: a, name: b}
spec: {containers: [{name: c, ports: [{name: x, containerPort: 65536}, {name: z, containerPort: 1, protocol: "6"}]}]}
status: {podIPs: [{ip: ""}, {ip: 0.0.0.0}, {ip: 10.0.0.1}]}`, `
a/b
at 10.0.0.1
! status.podIPs[0]: "" is not the IP address of a pod; it is left out
! status.podIPs[1]: "0.0.0.0" is not the IP address of a pod; it is left out
! port "x" of container "c": 65536/"" is not a port; it is left out
! port "z" of container "c": 1/"6" is not a port; it is left out
`},
	})
}

func TestNamespaceFrom(t *testing.T) {
	describe := func(n *cluster.Namespace) string { return fmt.Sprintln("labels", n.Labels) }
	testConversions(t, namespaceFrom, describe, []conversion{
		{"labels", `{metadata: {name: prod, labels: {env: prod}}}`, "prod\nlabels env=prod\n"},
	})
}

func describePolicy(p *cluster.NetworkPolicy) string {
	text := fmt.Sprintf("isolates [%s]", p.Pods)
	if p.IsolatesIngress {
		text += " ingress"
	}
	if p.IsolatesEgress {
		text += " egress"
	}
	text += "\n"
	for _, r := range p.Ingress {
		text += "allows from " + describeRule(r)
	}
	for _, r := range p.Egress {
		text += "allows to " + describeRule(r)
	}
	return text
}

func describeRule(r cluster.PolicyRule) string {
	var peers, ports []string
	if r.AnyPeer {
		peers = append(peers, "anyone")
	}
	for _, p := range r.Peers {
		switch {
		case p.Block != nil && p.Block.Except != nil:
			peers = append(peers, fmt.Sprintf("%s except %v", p.Block.CIDR, p.Block.Except))
		case p.Block != nil:
			peers = append(peers, p.Block.CIDR.String())
		case p.Namespaces != nil:
			peers = append(peers, fmt.Sprintf("pods [%s] in namespaces [%s]", p.Pods, p.Namespaces))
		default:
			peers = append(peers, fmt.Sprintf("pods [%s]", p.Pods))
		}
	}
	if r.AnyPort {
		ports = append(ports, "any")
	}
	for _, p := range r.Ports {
		switch {
		case p.Name != "":
			ports = append(ports, fmt.Sprintf("%q/%s", p.Name, p.Protocol))
		case p.Port == 0:
			ports = append(ports, p.Protocol.String())
		case p.End != p.Port:
			ports = append(ports, fmt.Sprintf("%d-%d/%s", p.Port, p.End, p.Protocol))
		default:
			ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return strings.Join(peers, " or ") + " on " + strings.Join(ports, " or ") + "\n"
}

func TestNetworkPolicyFrom(t *testing.T) {
	testConversions(t, networkPolicyFrom, describePolicy, []conversion{
		{"default deny of ingress", `
metadata: {namespace: default, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}`, "default/deny\nisolates [] ingress\n"},
		{"default deny of everything", `
metadata: {namespace: default, name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}`, "default/deny\nisolates [] ingress egress\n"},
		{"types by default, without egress rules", `
metadata: {namespace: a, name: b}
spec: {podSelector: {}, egress: []}`, "a/b\nisolates [] ingress\n"},
		{"types by default, with an egress rule", `
metadata: {namespace: a, name: b}
spec: {podSelector: {}, egress: [{}]}`, "a/b\nisolates [] ingress egress\nallows to anyone on any\n"},
		{"rules of a direction that is not isolated", `
metadata: {namespace: a, name: b}
spec: {podSelector: {}, policyTypes: [Egress], ingress: [{}]}`, "a/b\nisolates [] egress\n"},
		{"every kind of peer and port", `
metadata: {namespace: default, name: web}
spec:
  podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [b, a]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {role: client}}
    - namespaceSelector: {}
    - {namespaceSelector: {matchLabels: {env: prod}}, podSelector: {matchLabels: {role: client}}}
    - {podSelector: {}}
    - ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16, 10.2.3.4/24]}
    ports: [{port: 80}, {protocol: UDP, port: dns}, {protocol: SCTP}, {port: 8000, endPort: 8010}, {port: 1, endPort: 1}]
  egress:
  - to: [{ipBlock: {cidr: 0.0.0.0/0}}, {ipBlock: {cidr: "::/0", except: ["fd00::/8"]}}]
  - ports: [{protocol: UDP, port: 53}]`, `
default/web
isolates [app=web,tier in (a,b)] ingress egress
allows from pods [role=client] or pods [] in namespaces [] or pods [role=client] in namespaces [env=prod] or pods [] or 10.0.0.0/8 except [10.1.0.0/16 10.2.3.0/24] on 80/tcp or "dns"/udp or sctp or 8000-8010/tcp or 1/tcp
allows to 0.0.0.0/0 or ::/0 except [fd00::/8] on any
allows to anyone on 53/udp
`},
		// A policy in error isolates what it may have meant to isolate, and
		// allows nothing to pods that it may not have meant.
		{"selector of pods in error", `
metadata: {namespace: a, name: b}
spec: {podSelector: {matchExpressions: [{key: app, operator: Like, values: [x]}]}, ingress: [{}]}`, `
a/b
isolates [] ingress
! spec.podSelector: "Like" is not a valid label selector operator; the policy isolates all pods of its namespace and allows nothing
`},
		{"one peer and one port in error", `
metadata: {namespace: a, name: b}
spec:
  podSelector: {}
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0}}, {ipBlock: {cidr: 10.0.0.0/8}}]
    ports: [{port: 0}, {port: 80}]`, `
a/b
isolates [] ingress
allows from 10.0.0.0/8 on 80/tcp
! spec.ingress[0].from[0].ipBlock.cidr: "10.0.0.0" is not a CIDR; the peer is left out
! spec.ingress[0].ports[0].port: 0 is not a port; the port is left out
`},
		{"all peers in error", `
metadata: {namespace: a, name: b}
spec:
  podSelector: {}
  ingress:
  - from:
    - {}
    - {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}
    - {podSelector: {matchLabels: {"-": x}}}
    - {namespaceSelector: {matchExpressions: [{key: a, operator: In}]}}
    - {ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}
    - {ipBlock: {cidr: 10.0.0.0/8, except: [0.0.0.0/0]}}
    - {ipBlock: {cidr: 10.0.0.0/8, except: [ten]}}`, `
a/b
isolates [] ingress
! spec.ingress[0].from[0].podSelector: one of podSelector, namespaceSelector and ipBlock must be set; the peer is left out
! spec.ingress[0].from[1].ipBlock: it excludes podSelector and namespaceSelector, which are set too; the peer is left out
! spec.ingress[0].from[2].podSelector: key: Invalid value: "-": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-...; the peer is left out
! spec.ingress[0].from[3].namespaceSelector: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty; the peer is left out
! spec.ingress[0].from[4].ipBlock.except[0]: 11.0.0.0/16 is not inside 10.0.0.0/8; the peer is left out
! spec.ingress[0].from[5].ipBlock.except[0]: 0.0.0.0/0 is not inside 10.0.0.0/8; the peer is left out
! spec.ingress[0].from[6].ipBlock.except[0]: "ten" is not a CIDR; the peer is left out
`},
		{"all ports in error", `
metadata: {namespace: a, name: b}
spec:
  podSelector: {}
  policyTypes: [Egress, Sideways]
  egress:
  - ports: [{port: "80"}, {port: 80, endPort: 79}, {endPort: 80}, {port: http, endPort: 80}, {protocol: ICMP}, {port: 65536}]`, `
a/b
isolates [] egress
! spec.policyTypes[1]: "Sideways" is not Ingress or Egress; it is left out
! spec.egress[0].ports[0].port: "80" is neither the number nor the name of a port; the port is left out
! spec.egress[0].ports[1].endPort: 79 is not a port from 80 on; the port is left out
! spec.egress[0].ports[2].endPort: it needs a port to begin at; the port is left out
! spec.egress[0].ports[3].endPort: a range cannot begin at the named port "http"; the port is left out
! spec.egress[0].ports[4].protocol: "ICMP" is not TCP, UDP or SCTP; the port is left out
! spec.egress[0].ports[5].port: 65536 is not a port; the port is left out
`},
	})
}

// FuzzConversions: no object, however malformed, stops the agent, and nothing
// of it is in the model that the kernel would not understand.
func FuzzConversions(f *testing.F) {
	f.Add([]byte(`{metadata: {name: a}, spec: {podCIDRs: ["10.0.0.0/33"], podSelector: {matchLabels: {"": ""}}, ports: [{port: -1}]}}`))
	f.Add([]byte(`{addressType: IPv6, metadata: {labels: {kubernetes.io/service-name: x}}, endpoints: [{addresses: ["::1"]}]}`))
	f.Add([]byte(`{spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: "1.2.3.4/0", except: [""]}}], ports: [{port: "x", endPort: 1}]}]}}`))
	f.Add([]byte(`{spec: {clusterIP: "::ffff:1.2.3.4", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var (
			node      corev1.Node
			service   corev1.Service
			slice     discoveryv1.EndpointSlice
			pod       corev1.Pod
			namespace corev1.Namespace
			policy    networkingv1.NetworkPolicy
		)
		if yaml.Unmarshal(data, &node) == nil {
			_, n := nodeFrom(&node)
			plain(t, n.InternalIPs, n.ExternalIPs)
			masked(t, n.PodCIDRs...)
		}
		if yaml.Unmarshal(data, &service) == nil {
			if _, s := serviceFrom(&service); s != nil {
				plain(t, s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs)
			}
		}
		if yaml.Unmarshal(data, &slice) == nil {
			if _, s := endpointSliceFrom(&slice); s != nil {
				for _, e := range s.Endpoints {
					plain(t, []netip.Addr{e.Addr})
				}
			}
		}
		if yaml.Unmarshal(data, &pod) == nil {
			_, p := podFrom(&pod)
			plain(t, p.IPs)
		}
		if yaml.Unmarshal(data, &namespace) == nil {
			namespaceFrom(&namespace)
		}
		if yaml.Unmarshal(data, &policy) == nil {
			_, p := networkPolicyFrom(&policy)
			wellFormed(t, p)
		}
	})
}

func plain(t *testing.T, lists ...[]netip.Addr) {
	for _, addrs := range lists {
		for _, a := range addrs {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				t.Errorf("address %v", a)
			}
		}
	}
}

func masked(t *testing.T, prefixes ...netip.Prefix) {
	for _, p := range prefixes {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			t.Errorf("prefix %v", p)
		}
	}
}

func wellFormed(t *testing.T, p *cluster.NetworkPolicy) {
	if p.Pods == nil || !p.IsolatesIngress && !p.IsolatesEgress {
		t.Error("the policy isolates nothing")
	}
	for _, r := range append(p.Ingress, p.Egress...) {
		if r.AnyPeer != (len(r.Peers) == 0) || r.AnyPort != (len(r.Ports) == 0) {
			t.Errorf("rule %+v", r)
		}
		for _, peer := range r.Peers {
			if (peer.Block == nil) == (peer.Pods == nil) || peer.Block != nil && peer.Namespaces != nil {
				t.Errorf("peer %+v", peer)
			}
			if peer.Block != nil {
				masked(t, append(peer.Block.Except, peer.Block.CIDR)...)
			}
		}
		for _, port := range r.Ports {
			if port.End < port.Port || port.Port == 0 && port.End != 0 || port.Name != "" && port.Port != 0 {
				t.Errorf("port %+v", port)
			}
		}
	}
}
