// Package conntrack deletes connection tracking entries of flows that went to
// an endpoint which is gone, and of no others; and it marks entries. UDP needs that, and SCTP where
// asked: a client that keeps sending from one port renews its entry for ever.
//
// # What IPVS does by itself
//
// With net.ipv4.vs.conntrack=1 a masqueraded flow's entry looks like one of
// NAT: the original destination is the virtual server, the source of the reply
// is the real server (ip_vs_update_conntrack, net/netfilter/ipvs/ip_vs_nfct.c):
//
//	udp src=10.0.1.2 dst=10.96.0.10 sport=4000 dport=53 src=10.244.1.2 dst=10.0.1.2 sport=5353 dport=4000
//
// What decides where the packets go is the connection of IPVS (ipvsadm -Lnc),
// not this entry, and both last as long as the client sends. Deleting the entry
// alone moves nobody. With net.ipv4.vs.expire_nodest_conn=1, which the proxy
// sets, IPVS ends the connections of a real server when that is removed
// (ip_vs_expire_nodest_conn_flush, since Linux 5.9; before, on the client's
// next packet, which is lost), and a connection that ends takes its entry with
// it (ip_vs_conn_drop_conntrack). The next packet is scheduled anew. A real
// server of weight 0 keeps its connections: they end when it is removed.
//
// # What is left for Delete
//
// Entries that no connection of IPVS stands behind:
//
//   - Those of another proxy that served before, by DNAT: connection tracking
//     translates their packets before IPVS sees them, to endpoints that have
//     gone since.
//   - Those of packets that reached nobody, because the Service, its address or
//     its virtual server was not there yet and the packets were routed onwards.
//     They are untranslated: the source of the reply is the virtual server
//     (Flow with the zero Endpoint). IPVS does not alter an entry that is
//     confirmed, so the reply counts as a flow of its own; where the table nat
//     is in use, as on every node, the clash of the two is resolved by giving the
//     reply some other source port, and the client drops it. What a virtual
//     server without real servers refuses makes no entry.
//
// Flows of direct routing and tunnelling are untranslated too, rightly so: a
// caller does not ask for those of such a virtual server.
//
// # Marks
//
// Mark singles flows out for rules to find, whoever translates them. An entry
// that is deleted instead comes back with the next packet, which may be one of
// the other side: connection tracking picks TCP up in its middle
// (nf_conntrack_tcp_loose) and then takes the server for the client.
package conntrack

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/kube-router/kube-router/internal/inet"
)

// ErrUnavailable means that the kernel cannot be asked for its entries.
var ErrUnavailable = errors.New("the kernel has no connection tracking to ask: load it with modprobe nf_conntrack_netlink")

// Flow names the entries between one virtual server and one endpoint, of
// whatever client.
type Flow struct {
	Protocol inet.Protocol
	// Virtual is where the client sent to: the entry's original destination.
	// Without an address, and with a port, it is that port of any address.
	Virtual netip.AddrPort
	// Endpoint is who was to answer: the source of the entry's reply direction.
	// The zero value means that nobody took the flow over: the reply would come
	// from Virtual itself, which then needs an address.
	Endpoint netip.AddrPort
}

// String is the flow as the options of conntrack -D.
func (f Flow) String() string {
	text := "-p " + f.Protocol.String()
	if f.Virtual.Addr().IsValid() {
		text += " --orig-dst " + f.Virtual.Addr().String()
	}
	text += fmt.Sprintf(" --orig-port-dst %d", f.Virtual.Port())
	from := f.Endpoint
	if from == (netip.AddrPort{}) {
		from = f.Virtual
	}
	return text + fmt.Sprintf(" --reply-src %s --reply-port-src %d", from.Addr(), from.Port())
}

// Interface is the connection tracking table of one network namespace.
type Interface interface {
	// Delete deletes the entries of the flows and returns how many there were.
	// It reads the table once for each protocol and family among them, however
	// many they are; without flows it does nothing. An entry that ends by itself meanwhile is no
	// error. A flow that names too little is one (ErrFlow), and the other flows
	// are seen to. After any other error the same call may be made again.
	Delete(flows []Flow) (deleted int, err error)

	// Mark reads the entries of a family once, of every protocol, and calls want
	// with each. An entry for which it returns true gets all of bits in its mark
	// (what connmark matches in rules), any other loses them; the other bits of
	// the mark stay. What is right already is not written. An entry that ends
	// by itself meanwhile is no error. want must not call the Interface.
	Mark(family inet.Family, bits uint32, want func(Entry) bool) (Marks, error)
}

// Marks is what a call of Mark did: how many entries got the bits and how many
// lost them, and how many have them now.
type Marks struct{ Added, Removed, Total int }

// Entry is an entry of the table: where a client sent from and to, and where
// the reply comes from and goes to. Ports are 0 where the protocol has none.
type Entry struct {
	Protocol           inet.Protocol
	From, To           netip.AddrPort
	ReplyFrom, ReplyTo netip.AddrPort
}

// String is the entry as conntrack -L writes it, without its times and marks.
func (e Entry) String() string {
	direction := func(src, dst netip.AddrPort) string {
		return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d", src.Addr(), dst.Addr(), src.Port(), dst.Port())
	}
	return fmt.Sprintf("%s %s %s", e.Protocol, direction(e.From, e.To), direction(e.ReplyFrom, e.ReplyTo))
}

// SelfCall says that the client was sent back to itself, at its own address: no
// host answers to that. A masquerade would have given it another one.
func (e Entry) SelfCall() bool {
	client := e.From.Addr()
	return e.To.Addr() != client && e.ReplyFrom.Addr() == client && e.ReplyTo.Addr() == client
}

// ErrFlow means that a flow does not name a virtual server and an endpoint.
var ErrFlow = errors.New("not a flow whose entries can be told from others")

// check says what a flow lacks.
func (f Flow) check() error {
	switch {
	case f.Protocol == 0:
		return fmt.Errorf("%w: no protocol (%s)", ErrFlow, f)
	case f.Virtual.Port() == 0:
		return fmt.Errorf("%w: no port of the virtual server (%s)", ErrFlow, f)
	case f.Endpoint == (netip.AddrPort{}):
		// With a port alone it would be whatever passes through the node to
		// that port of some other host.
		if !f.Virtual.Addr().IsValid() {
			return fmt.Errorf("%w: neither an endpoint nor the address of the virtual server (%s)", ErrFlow, f)
		}
	case !f.Endpoint.IsValid() || f.Endpoint.Port() == 0:
		return fmt.Errorf("%w: half an endpoint (%s)", ErrFlow, f)
	case f.Virtual.Addr().IsValid() && f.Virtual.Addr().Is4() != f.Endpoint.Addr().Is4():
		return fmt.Errorf("%w: two address families (%s)", ErrFlow, f)
	}
	return nil
}

// family is the address family of the flow's entries.
func (f Flow) family() inet.Family {
	if f.Endpoint.IsValid() {
		return inet.FamilyOf(f.Endpoint.Addr())
	}
	return inet.FamilyOf(f.Virtual.Addr())
}

// tuple is one direction of an entry.
type tuple struct {
	protocol inet.Protocol
	src, dst netip.AddrPort
}

// flows is the set of flows of one call, by what is compared, so that the cost
// of an entry does not grow with them.
type flows map[Flow]struct{}

// newFlows returns the flows that can be looked for, and what is wrong with
// the others.
func newFlows(list []Flow) (flows, error) {
	set := make(flows, len(list))
	var errs []error
	for _, f := range list {
		if err := f.check(); err != nil {
			errs = append(errs, err)
			continue
		}
		set[f] = struct{}{}
	}
	return set, errors.Join(errs...)
}

// match says whether an entry belongs to one of the flows.
func (s flows) match(original, reply tuple) bool {
	port := netip.AddrPortFrom(netip.Addr{}, original.dst.Port())
	for _, f := range [...]Flow{
		{original.protocol, original.dst, reply.src},
		{original.protocol, port, reply.src},
	} {
		if _, ok := s[f]; ok {
			return true
		}
	}
	_, ok := s[Flow{original.protocol, original.dst, netip.AddrPort{}}]
	return ok && reply.src == original.dst
}
