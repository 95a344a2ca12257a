// Package peering decides whom a node speaks BGP with, and as what: from the
// flags, the node's own Node object and those of all others. It is a pure
// function of the present. Of every pair of nodes both decide alike, so that a
// session has two ends.
package peering

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// Config is what the operator decides for all nodes.
type Config struct {
	// Families are the enabled address families, IPv4 first.
	Families []inet.Family
	// ASN is that of nodes without an annotation of their own.
	ASN uint32
	// Port is where nodes listen.
	Port uint16
	// Between is whether nodes speak with each other at all, and FullMesh
	// whether every node does with every other.
	Between, FullMesh bool
	// Password is that of the sessions between nodes, empty for none.
	Password bgp.Secret
	// RouterID is invalid where it is the node's IPv4 address, and
	// GenerateRouterID asks for a hash where there is none.
	RouterID         netip.Addr
	GenerateRouterID bool
	// DeferralTime is how long a reflector that restarts waits for the routes
	// of its peers before it tells its own.
	DeferralTime time.Duration

	// Routers are the peers that the flags name: routers outside of the
	// cluster, or nodes.
	Routers []Router
	// What follows holds for the peers outside of the cluster.
	HoldTime    time.Duration
	MultihopTTL uint8
	MaxPrefixes uint32
	BFD         bgp.BFD // of those that the flags name
	NextHopSelf bool
	// Reject are prefixes that are never taken from any peer.
	Reject []netip.Prefix
}

// Router is a peer that the flags name.
type Router struct {
	Addr netip.Addr
	// ASN is 0 where none is given: a node has one of its own.
	ASN uint32
	// Port is 0 for the default.
	Port     uint16
	Password bgp.Secret
}

// Problem is something that is left out, in words that say what to do.
type Problem struct {
	// Nodes are the names of those whose annotations or specs are at fault.
	Nodes []string
	// Reason is that of the Event, in UpperCamelCase.
	Reason  string
	Message string
}

// Own is what a node is by itself.
type Own struct {
	// Addr is the address that sessions with other nodes are between, of the
	// first enabled family that the node has an address of.
	Addr     netip.Addr
	ASN      uint32
	RouterID netip.Addr
	// ClusterID is what a reflector puts into the cluster list of a route, its
	// router ID; invalid where the node is none. With one that several share,
	// none would take what another has reflected, nor GoBGP's own routes.
	ClusterID netip.Addr
	// Listen are the addresses to accept sessions on.
	Listen []netip.Addr
	// DeferralTime is 0 where the node reflects nothing.
	DeferralTime time.Duration
	// External are the peers that the node's annotations name.
	External []bgp.Peer
	Policy   bgp.Policy
}

// reader reads the annotations of one node and keeps the problems.
type reader struct {
	node     *cluster.Node
	problems []Problem
}

// bad notes that a part of an annotation is left out. What is said never holds
// a password.
func (r *reader) bad(annotation, format string, args ...any) {
	r.problems = append(r.problems, Problem{
		Nodes: []string{r.node.Name}, Reason: "BadAnnotation",
		Message: "annotation " + annotation + ": " + fmt.Sprintf(format, args...),
	})
}

// ReadOwn reads what the node of this agent is. host are the addresses of this
// host. Its error says what must come first for the node to speak at all.
func ReadOwn(c Config, node *cluster.Node, host []netip.Addr) (Own, []Problem, error) {
	r := &reader{node: node}
	own := Own{Addr: address(node, c.Families), ASN: asnOf(r, c.ASN)}
	if !own.Addr.IsValid() {
		return Own{}, nil, fmt.Errorf("node %s has no address of %v yet: the kubelet or the cloud provider sets it", node.Name, c.Families)
	}
	var err error
	if own.RouterID, err = routerID(c, node, own.Addr); err != nil {
		return Own{}, nil, err
	}
	if _, ok := clusterOf(r); ok && c.Between {
		own.ClusterID, own.DeferralTime = own.RouterID, c.DeferralTime
	}
	own.Listen = r.listen(c, host)
	own.External = r.external(c)
	own.Policy = r.policy(c)
	return own, r.problems, nil
}

// address is that of a node's sessions with other nodes.
func address(node *cluster.Node, families []inet.Family) netip.Addr {
	for _, f := range families {
		if a := node.IP(f); a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

// routerID is the configured one, else the node's IPv4 address, else (where
// that is asked for) a hash of its address.
func routerID(c Config, node *cluster.Node, addr netip.Addr) (netip.Addr, error) {
	switch ip := node.IP(inet.IPv4); {
	case c.RouterID.IsValid():
		return c.RouterID, nil
	case ip.IsValid() && slices.Contains(c.Families, inet.IPv4):
		return ip, nil
	case c.GenerateRouterID:
		h := fnv.New32a()
		h.Write(addr.AsSlice())
		return netip.AddrFrom4([4]byte(h.Sum(nil))), nil
	}
	return netip.Addr{}, fmt.Errorf("node %s has no IPv4 address to be its router ID: set --router-id to one, or to \"generate\"", node.Name)
}

// listen are the addresses that are annotated, and in any case the one where
// other nodes connect to. Without the annotation they are the node's.
func (r *reader) listen(c Config, host []netip.Addr) []netip.Addr {
	var list []netip.Addr
	add := func(a netip.Addr) {
		if a.IsValid() && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	text, annotated := r.node.Annotations[localAddresses]
	if c.Between {
		add(address(r.node, c.Families))
	}
	for i, word := range words(text) {
		addr, err := netip.ParseAddr(word)
		switch {
		case err != nil || addr.Zone() != "":
			r.bad(localAddresses, "entry %d, %s, is not an IP address; it is left out", i+1, quote(word))
		case !slices.Contains(host, addr):
			r.bad(localAddresses, "entry %d: no link of this host has the address %s; it is left out", i+1, addr)
		case !slices.Contains(c.Families, inet.FamilyOf(addr)):
			r.bad(localAddresses, "entry %d: %s is of an address family that is not enabled; it is left out", i+1, addr)
		default:
			add(addr)
		}
	}
	if !annotated || len(list) == 0 {
		for _, f := range c.Families {
			add(r.node.IP(f))
		}
	}
	return list
}
