package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// schedulerAnnotation names the IPVS scheduler of one Service.
const schedulerAnnotation = "kube-router.io/service.scheduler"

// schedulers are those that a Service may name.
var schedulers = [...]string{"rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh"}

// desired is what one Service wants of the kernel.
type desired struct {
	virtuals map[ipvs.ID]virtual
	// vips are the addresses that the host must be made to accept, with the
	// source that it uses when it speaks to them.
	vips map[netip.Addr]netip.Addr
	// hairpins are the endpoints that may meet themselves.
	hairpins map[ipset.Entry]struct{}
	reals    int
}

// virtual is one address and port of a Service. Without a server it rejects,
// or, where drop is set, drops: there are endpoints, but the Service's traffic
// policy does not want those of other nodes.
type virtual struct {
	server *ipvs.Server
	drop   bool
}

// problem is what a user must be told about an object.
type problem struct {
	kind            string
	object          *cluster.Meta
	reason, message string
}

// compiler turns a Service into what it wants of the kernel. It is a pure
// function of its input.
type compiler struct{ config Config }

// compilation is one Service on its way.
type compilation struct {
	compiler
	me       self
	service  *cluster.Service
	slices   []*cluster.EndpointSlice
	config   ipvs.Config
	out      *desired
	problems []problem
}

// compile returns what a Service with its slices, in order of their names,
// wants on the given node. What is wrong with them is left out and reported.
func (c compiler) compile(service *cluster.Service, slices []*cluster.EndpointSlice, me self) (*desired, []problem) {
	b := compilation{
		compiler: c, me: me, service: service, slices: slices,
		out: &desired{
			virtuals: map[ipvs.ID]virtual{}, vips: map[netip.Addr]netip.Addr{}, hairpins: map[ipset.Entry]struct{}{},
		},
	}
	b.config = ipvs.Config{Scheduler: b.scheduler(), Persistence: uint32(service.AffinityTimeout / time.Second)}
	internal, external := b.internal(), b.external()
	for _, port := range service.Ports {
		if port.Port == 0 {
			b.warn("PortZero", fmt.Sprintf("port %q has no number and is left out", port.Name))
			continue
		}
		b.port(port, internal, external)
	}
	b.badEndpoints()
	return b.out, b.problems
}

// port adds one port of the Service at all its addresses. endpoints are found
// once for each family and traffic policy.
func (b *compilation) port(port cluster.ServicePort, internal, external []netip.Addr) {
	found := map[pool]virtual{}
	at := func(addr netip.Addr, number uint16, local bool) {
		from := pool{inet.FamilyOf(addr), local}
		v, ok := found[from]
		if !ok {
			v = b.virtual(port, from)
			found[from] = v
		}
		b.add(ipvs.ID{Protocol: port.Protocol, Addr: netip.AddrPortFrom(addr, number)}, v)
	}
	for _, addr := range internal {
		at(addr, port.Port, b.service.InternalLocal)
	}
	for _, addr := range external {
		at(addr, port.Port, b.service.ExternalLocal)
	}
	if port.NodePort == 0 {
		return
	}
	for _, addr := range b.me.addrs {
		if b.hasFamily(inet.FamilyOf(addr)) {
			at(addr, port.NodePort, b.service.ExternalLocal)
		}
	}
}

// add takes a virtual server in. An address that a Service lists twice is
// served once, as the first time.
func (b *compilation) add(id ipvs.ID, v virtual) {
	if _, ok := b.out.virtuals[id]; ok {
		return
	}
	b.out.virtuals[id] = v
	if v.server != nil {
		b.out.reals += len(v.server.Real)
	}
}

// internal are the cluster IPs that are served.
func (b *compilation) internal() []netip.Addr {
	var addrs []netip.Addr
	for _, a := range b.service.ClusterIPs {
		switch {
		case !b.enabled(a):
		case b.me.has(a):
			b.warn("ClusterIPOfNode", fmt.Sprintf("cluster IP %s is left out: it is an address of node %s; "+
				"the range of cluster IPs must not overlap the nodes' network", a, b.me.name))
		case !routable(a):
			b.warn("BadClusterIP", fmt.Sprintf("cluster IP %s is left out: it is no unicast address of a network", a))
		default:
			addrs = append(addrs, a)
			b.vip(a)
		}
	}
	return addrs
}

// external are the external and load balancer IPs that are served.
func (b *compilation) external() []netip.Addr {
	var addrs []netip.Addr
	take := func(list []netip.Addr, ranges []netip.Prefix, what string) {
		for _, a := range list {
			switch {
			case !b.enabled(a):
			case !routable(a) || !contains(ranges, a) || contains(b.compiler.config.ServiceRanges, a):
				b.warn("AddressRefused", fmt.Sprintf("%s IP %s is not served: it must be in a range that is configured for %s IPs, "+
					"and not in that of cluster IPs", what, a, what))
			default:
				addrs = append(addrs, a)
				if !b.me.has(a) {
					b.vip(a)
				}
			}
		}
	}
	take(b.service.ExternalIPs, b.compiler.config.ExternalIPRanges, "external")
	take(b.service.LoadBalancerIPs, b.compiler.config.LoadBalancerIPRanges, "load balancer")
	return addrs
}

func (b *compilation) vip(a netip.Addr) { b.out.vips[a] = b.me.source[inet.FamilyOf(a)] }

func (b *compilation) enabled(a netip.Addr) bool {
	return slices.Contains(b.compiler.config.Families, inet.FamilyOf(a))
}

// hasFamily says that the Service is of a family: its cluster IPs tell.
func (b *compilation) hasFamily(f inet.Family) bool {
	return slices.ContainsFunc(b.service.ClusterIPs, func(a netip.Addr) bool { return inet.FamilyOf(a) == f })
}

func (b *compilation) scheduler() string {
	name, ok := b.service.Annotations[schedulerAnnotation]
	if !ok || slices.Contains(schedulers[:], name) {
		if ok {
			return name
		}
		return b.compiler.config.Scheduler
	}
	b.warn("UnknownScheduler", fmt.Sprintf("annotation %s: %q is not one of %s; %s is used",
		schedulerAnnotation, name, strings.Join(schedulers[:], ", "), b.compiler.config.Scheduler))
	return b.compiler.config.Scheduler
}

func (b *compilation) warn(reason, message string) {
	b.problems = append(b.problems, problem{"Service", &b.service.Meta, reason, message})
}

// routable says that packets can be sent to an address through a network.
func routable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && a.IsGlobalUnicast()
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
