package policy

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/kube-router/kube-router/internal/inet"
)

var inetProtocols = map[corev1.Protocol]inet.Protocol{
	corev1.ProtocolTCP: inet.TCP, corev1.ProtocolUDP: inet.UDP, corev1.ProtocolSCTP: inet.SCTP,
}

// meets are the chains in which node1 meets a flow, with the packet as it is
// there. What goes through neither of its Pods is met as well: a router's.
//
//   - FORWARD has what it routes, and what its bridge switches.
//   - OUTPUT has what it sends itself, and what IPVS has translated: that has
//     the client's source still.
//   - INPUT has what is for the node.
func meets(f flow) map[string][]packet {
	here := nodeAddrs[testConfig.NodeName]
	p := packet{src: f.src, dst: f.dst, protocol: inetProtocols[f.protocol], port: uint16(f.port)}
	if slices.Contains(here, f.src) {
		p.local, p.toHost = true, slices.Contains(here, f.dst)
		return map[string][]packet{"OUTPUT": {p}}
	}
	if slices.Contains(here, f.dst) {
		p.toHost = true
		return map[string][]packet{"INPUT": {p}}
	}
	switched := p
	switched.bridged = true
	return map[string][]packet{"FORWARD": {p, switched}, "OUTPUT": {p}}
}

// judged compares what the rules do with a flow, in every chain that meets it,
// with what the judge says. What may be a node port of another proxy passes.
func judged(t *tracer, j *judge, f flow, nodePorts PortRange) error {
	for chain, packets := range meets(f) {
		want := j.allows(f) || chain == "INPUT" && nodePorts.contains(uint16(f.port))
		for _, p := range packets {
			if got := t.passes(chain, p); got != want {
				return fmt.Errorf("%s: %s passes: %v, want %v", chain, f, got, want)
			}
		}
	}
	return nil
}

func (f flow) String() string {
	return fmt.Sprintf("%s from %s to %s", f.protocol, f.src, netip.AddrPortFrom(f.dst, uint16(f.port)))
}

// check compares the rules with the judge for every pair of addresses in each
// family, of Pods, nodes and others: each with some ports, or with all.
func (w *world) check(o *objects, ports func() []target) error {
	j, t := &judge{o, testConfig.NodeName}, w.tracer()
	for _, addrs := range o.addrs() {
		for _, src := range addrs {
			for _, dst := range addrs {
				if slices.Contains(outside, src) && slices.Contains(outside, dst) {
					continue
				}
				for _, to := range ports() {
					if err := judged(t, j, flow{src, dst, to.protocol, to.port}, w.c.config.NodePorts); err != nil {
						return err
					}
				}
			}
		}
	}
	return always(t, o, len(w.c.config.ServiceRanges) > 0)
}

// target is what a flow goes to.
type target struct {
	protocol corev1.Protocol
	port     int32
}

// strangePorts are beside those of policies, and at the ends of the node ports.
var strangePorts = []int32{1, 52, 54, 29999, 30000, 32767, 32768, 65535}

// allTargets are the ports that clusters are made of, and those beside them.
func allTargets() (all []target) {
	for _, protocol := range protocols {
		for _, port := range slices.Concat(strangePorts, portNumbers) {
			all = append(all, target{protocol, port})
		}
	}
	return all
}

// someTargets draws a few.
func (d dice) someTargets() []target {
	some := make([]target, 3)
	for i := range some {
		some[i] = target{pick(d, protocols...), pick(d, portNumbers...)}
		if d.one(8) {
			some[i].port = pick(d, strangePorts...)
		}
	}
	return some
}

// addrs are the addresses that may send and receive, by family.
func (o *objects) addrs() map[inet.Family][]netip.Addr {
	seen, addrs := map[netip.Addr]bool{}, map[inet.Family][]netip.Addr{}
	add := func(a netip.Addr) {
		if !seen[a] {
			seen[a] = true
			addrs[inet.FamilyOf(a)] = append(addrs[inet.FamilyOf(a)], a)
		}
	}
	for _, pod := range o.pods {
		for _, ip := range pod.Status.PodIPs { // those that it gave back, too
			add(netip.MustParseAddr(ip.IP))
		}
	}
	for _, list := range [][]netip.Addr{nodeAddrs["node1"], nodeAddrs["node2"], outside} {
		for _, a := range list {
			add(a)
		}
	}
	return addrs
}

// always checks what passes whatever the policies say: connections that exist,
// a Pod's traffic to Services before its translation (beside another proxy; our
// own accepts it before these chains), and the neighbour discovery without which
// IPv6 has no neighbours.
func always(t *tracer, o *objects, services bool) error {
	for _, pod := range o.pods {
		for _, ip := range ownAddrs(pod) {
			for chain, p := range passing(ip, services) {
				if !t.passes(chain, p) {
					return fmt.Errorf("%s: %+v does not pass", chain, p)
				}
			}
		}
	}
	return nil
}

func passing(ip netip.Addr, services bool) func(yield func(string, packet) bool) {
	service, node := netip.MustParseAddr("10.96.0.10"), nodeAddrs["node1"][0]
	if ip.Is6() {
		service, node = netip.MustParseAddr("fd00:96::10"), nodeAddrs["node1"][1]
	}
	return func(yield func(string, packet) bool) {
		for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
			out := packet{src: ip, dst: node, protocol: inet.TCP, port: 1, established: true}
			back := packet{src: outside[0], dst: ip, protocol: inet.UDP, port: 1, established: true}
			if ip.Is6() {
				back.src = outside[4]
			}
			if !yield(chain, out) || !yield(chain, back) {
				return
			}
			for _, icmp := range []string{"135", "136"} {
				if ip.Is6() && (!yield(chain, packet{src: ip, dst: node, icmpType: icmp}) || !yield(chain, packet{src: node, dst: ip, icmpType: icmp})) {
					return
				}
			}
		}
		_ = services && yield("INPUT", packet{src: ip, dst: service, protocol: inet.TCP, port: 443, toHost: true})
	}
}
