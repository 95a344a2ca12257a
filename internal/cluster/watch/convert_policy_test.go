package watch

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
)

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
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.3.0/24]}
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
    - {ipBlock: {cidr: 10.0.0.0/8, except: [ten]}}
    - {ipBlock: {cidr: 10.1.2.3/8}}
    - {ipBlock: {cidr: "fd00::/16", except: ["fd00::1/64"]}}`, `
a/b
isolates [] ingress
! spec.ingress[0].from[0].podSelector: one of podSelector, namespaceSelector and ipBlock must be set; the peer is left out
! spec.ingress[0].from[1].ipBlock: it excludes podSelector and namespaceSelector, which are set too; the peer is left out
! spec.ingress[0].from[2].podSelector: key: Invalid value: "-": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-...; the peer is left out
! spec.ingress[0].from[3].namespaceSelector: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty; the peer is left out
! spec.ingress[0].from[4].ipBlock.except[0]: 11.0.0.0/16 is not inside 10.0.0.0/8; the peer is left out
! spec.ingress[0].from[5].ipBlock.except[0]: 0.0.0.0/0 is not inside 10.0.0.0/8; the peer is left out
! spec.ingress[0].from[6].ipBlock.except[0]: "ten" is not a CIDR; the peer is left out
! spec.ingress[0].from[7].ipBlock.cidr: "10.1.2.3/8" has bits set beyond its length; write 10.0.0.0/8, or 10.1.2.3/32 for that one address; the peer is left out
! spec.ingress[0].from[8].ipBlock.except[0]: "fd00::1/64" has bits set beyond its length; write fd00::/64, or fd00::1/128 for that one address; the peer is left out
`},
		{"all ports in error", `
metadata: {namespace: a, name: b}
spec:
  podSelector: {}
  policyTypes: [Egress, Sideways]
  egress:
  - ports: [{port: "80"}, {port: 80, endPort: 79}, {endPort: 80}, {port: http, endPort: 80}, {protocol: ICMP}, {port: 65536}, {protocol: ""}, {protocol: udp}]`, `
a/b
isolates [] egress
! spec.policyTypes[1]: "Sideways" is not Ingress or Egress; it is left out
! spec.egress[0].ports[0].port: "80" is neither the number nor the name of a port; the port is left out
! spec.egress[0].ports[1].endPort: 79 is not a port from 80 on; the port is left out
! spec.egress[0].ports[2].endPort: it needs a port to begin at; the port is left out
! spec.egress[0].ports[3].endPort: a range cannot begin at the named port "http"; the port is left out
! spec.egress[0].ports[4].protocol: "ICMP" is not TCP, UDP or SCTP; the port is left out
! spec.egress[0].ports[5].port: 65536 is not a port; the port is left out
! spec.egress[0].ports[6].protocol: "" is not TCP, UDP or SCTP; the port is left out
! spec.egress[0].ports[7].protocol: "udp" is not TCP, UDP or SCTP; the port is left out
`},
	})
}
