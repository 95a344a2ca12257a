package services

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// desired is what one Service wants of the kernel.
type desired struct {
	virtuals map[ipvs.ID]virtual
	// vips are the addresses that the host must be made to accept.
	vips map[netip.Addr]struct{}
	// hairpins are the endpoints that may meet themselves.
	hairpins map[ipset.Entry]struct{}
	reals    int
	// direct says that it depends on the addresses of other nodes.
	direct bool
	// health is what load balancers are told, nil for nothing.
	health *health
}

func newDesired() *desired {
	return &desired{virtuals: map[ipvs.ID]virtual{}, vips: map[netip.Addr]struct{}{}, hairpins: map[ipset.Entry]struct{}{}}
}

// empty takes everything out, to be used again.
func (d *desired) empty() *desired {
	clear(d.virtuals)
	clear(d.vips)
	clear(d.hairpins)
	*d = desired{virtuals: d.virtuals, vips: d.vips, hairpins: d.hairpins}
	return d
}

// virtual is one address and port of a Service. Without a server it rejects,
// and so does a server without a weight. Where drop is set, what is new is
// dropped: there are endpoints, but the Service's traffic policy does not want
// those of other nodes.
type virtual struct {
	server  *ipvs.Server
	special *special // nil for most
	drop    bool
	// own says that the address is the Service's cluster IP, which the API
	// server gave to it alone.
	own bool
}

// special is what few virtual servers need.
type special struct {
	// port is the Service's, whatever that of the virtual server is.
	port uint16
	// inside is what clients of this node, its Pods and itself, get in the
	// place of server; nil where that is the same. The external traffic policy
	// is not for them (KEP-2086), nor is direct server return: in a tunnel the
	// endpoint does not show, and their egress policies could not judge it.
	inside *ipvs.Server
	// tunnelled is what packets get that another node sent here for direct
	// server return: the endpoints of this node. It is nil without any.
	tunnelled *ipvs.Server
	// sources are the only clients that are let through, where restricted.
	restricted bool
	sources    []netip.Prefix
}

func (v virtual) restricted() bool { return v.special != nil && v.special.restricted }

func (v virtual) sources() []netip.Prefix {
	if v.special == nil {
		return nil
	}
	return v.special.sources
}

// health is the answer to a load balancer's question whether this node has
// endpoints of a Service.
type health struct {
	port  uint16
	local int
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
	options  options
	out      *desired
	problems []problem
}

// compile returns what a Service with its slices, in order of their names,
// wants on the given node. What is wrong with them is left out and reported.
func (c compiler) compile(service *cluster.Service, slices []*cluster.EndpointSlice, me self) (*desired, []problem) {
	return c.compileInto(newDesired(), service, slices, me)
}

// compileInto is compile into what is empty.
func (c compiler) compileInto(out *desired, service *cluster.Service, slices []*cluster.EndpointSlice, me self) (*desired, []problem) {
	b := compilation{compiler: c, me: me, service: service, slices: slices, out: out}
	b.options = b.readOptions()
	doors := b.doors()
	for _, port := range service.Ports {
		if port.Port == 0 {
			b.warn("PortZero", fmt.Sprintf("port %q has no number and is left out", port.Name))
			continue
		}
		b.port(port, doors)
	}
	b.healthCheck()
	b.badEndpoints()
	return b.out, b.problems
}

// door is an address at which a Service is reached.
type door struct {
	addr netip.Addr
	// external says that the external traffic policy holds, not the internal
	// one.
	external bool
	// restricted says that only the Service's source ranges may come in.
	restricted bool
}

// port adds one port of the Service at all its addresses. Virtual servers are
// the same behind all doors of a kind, so each is made once.
func (b *compilation) port(port cluster.ServicePort, doors []door) {
	found := map[pool]virtual{}
	at := func(d door, number uint16, from pool) {
		v, ok := found[from]
		if !ok {
			v = b.virtual(port, from)
			found[from] = v
		}
		if d.restricted {
			v = b.restrict(v, from.family)
		}
		b.add(ipvs.ID{Protocol: port.Protocol, Addr: netip.AddrPortFrom(d.addr, number)}, v)
	}
	for _, d := range doors {
		from := pool{family: inet.FamilyOf(d.addr), external: d.external, local: b.options.internalLocal}
		if d.external {
			from.local = b.options.externalLocal
		}
		switch {
		case !b.options.dsr || from.local: // every endpoint is here
		case from.family == inet.IPv4:
			from.tunnelPort = port.Port
			b.out.direct = true
		case b.options.dsrAsked:
			b.warn("NoDirectReturn", "direct server return is not for IPv6: its addresses of that family are served without it")
		}
		at(d, port.Port, from)
	}
	if port.NodePort == 0 {
		return
	}
	if b.options.dsrAsked && !b.options.externalLocal && b.hasFamily(inet.IPv4) {
		b.warn("NoDirectReturn", "direct server return is not for node ports: they are served without it")
	}
	for _, addr := range b.me.addrs {
		if f := inet.FamilyOf(addr); b.hasFamily(f) && !b.excluded(addr, "node port address") {
			at(door{addr: addr}, port.NodePort, pool{family: f, external: true, local: b.options.externalLocal})
		}
	}
}

// add takes a virtual server in. An address that a Service lists twice is
// served once, as the first time, but for some sources only where one of the
// two is.
func (b *compilation) add(id ipvs.ID, v virtual) {
	if first, ok := b.out.virtuals[id]; ok {
		if v.restricted() && !first.restricted() {
			b.out.virtuals[id] = b.restrict(first, familyOf(id))
		}
		return
	}
	v.own = slices.Contains(b.service.ClusterIPs, id.Addr.Addr())
	b.out.virtuals[id] = v
	if v.server != nil {
		b.out.reals += len(v.server.Real)
	}
}

// restrict lets only the source ranges of a family in. The whole of it is no
// restriction.
func (b *compilation) restrict(v virtual, f inet.Family) virtual {
	var sources []netip.Prefix
	for _, p := range b.service.SourceRanges {
		switch {
		case inet.FamilyOf(p.Addr()) != f:
		case p.Bits() == 0:
			return v
		default:
			sources = append(sources, p)
		}
	}
	limited := special{restricted: true, sources: sources}
	if v.special != nil {
		limited.port, limited.inside, limited.tunnelled = v.special.port, v.special.inside, v.special.tunnelled
	}
	v.special = &limited
	return v
}

func (b *compilation) enabled(a netip.Addr) bool {
	return slices.Contains(b.compiler.config.Families, inet.FamilyOf(a))
}

// hasFamily says that the Service is of a family: its cluster IPs tell.
func (b *compilation) hasFamily(f inet.Family) bool {
	return slices.ContainsFunc(b.service.ClusterIPs, func(a netip.Addr) bool { return inet.FamilyOf(a) == f })
}

func (b *compilation) warn(reason, message string) {
	p := problem{"Service", &b.service.Meta, reason, message}
	if !slices.Contains(b.problems, p) { // each port may say it
		b.problems = append(b.problems, p)
	}
}

// routable says that packets can be sent to an address through a network.
func routable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && a.IsGlobalUnicast()
}

func contains(ranges []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
