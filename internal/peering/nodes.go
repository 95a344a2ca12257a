package peering

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// farAway is how many hops a node of another AS may be away.
const farAway = 64

// member is a node as the others see it.
type member struct {
	name string
	addr netip.Addr
	asn  uint32
	// assigned says that the node's AS number is annotated.
	assigned bool
	// cluster is that of a reflector, else invalid.
	cluster netip.Addr
	// client says that the node speaks with reflectors only, and home is the
	// cluster of those, or invalid for all.
	client bool
	home   netip.Addr
	// named is the node's entry in the flags, or nil.
	named *Router
}

// asnOf is a node's AS number.
func asnOf(r *reader, fallback uint32) uint32 {
	text, ok := r.node.Annotations[asnAnnotation]
	if !ok {
		return fallback
	}
	asn, err := ParseASN(strings.TrimSpace(text))
	if err != nil {
		r.bad(asnAnnotation, "%v; the cluster's, %d, is taken", err, fallback)
		return fallback
	}
	return asn
}

// clusterOf is the cluster of a reflector, and false for any other node.
func clusterOf(r *reader) (netip.Addr, bool) {
	for _, name := range []string{reflector, reflectorServer} {
		text, ok := r.node.Annotations[name]
		if !ok {
			continue
		}
		id, err := parseClusterID(text)
		if err != nil {
			r.bad(name, "%v; the node is no reflector", err)
			continue
		}
		if _, both := r.node.Annotations[reflectorClient]; both {
			r.bad(reflectorClient, "is not looked at: the node is a reflector")
		}
		return id, true
	}
	return netip.Addr{}, false
}

// homeOf is the cluster whose reflectors a client speaks with. A client with an
// id that cannot be read is one of all reflectors.
func homeOf(r *reader) (client bool, home netip.Addr) {
	text, ok := r.node.Annotations[reflectorClient]
	if !ok {
		return false, netip.Addr{}
	}
	id, err := parseClusterID(text)
	if err != nil {
		r.bad(reflectorClient, "%v; the node is a client of all reflectors", err)
	}
	return true, id
}

func (c Config) member(n *cluster.Node) member {
	r := &reader{node: n}
	m := member{name: n.Name, addr: address(n, c.Families), asn: asnOf(r, c.ASN)}
	_, m.assigned = n.Annotations[asnAnnotation]
	if id, ok := clusterOf(r); ok {
		m.cluster = id
	} else {
		m.client, m.home = homeOf(r)
	}
	for i := range c.Routers {
		if hasAddr(n, c.Routers[i].Addr) {
			m.named = &c.Routers[i]
			break
		}
	}
	return m
}

func hasAddr(n *cluster.Node, a netip.Addr) bool {
	return slices.Contains(n.InternalIPs, a) || slices.Contains(n.ExternalIPs, a)
}

// serves says whether m reflects routes for o: within one AS, as RFC 4456 has
// it, and for the clients of its own cluster where they name one.
func (m member) serves(o member) bool {
	return m.cluster.IsValid() && m.asn == o.asn && (!o.home.IsValid() || o.home == m.cluster)
}

// topology is what decides about pairs of nodes.
type topology struct {
	Config
	// reflected are the AS numbers that have reflectors.
	reflected map[uint32]bool
}

// role is what b is to a, and false where they do not speak. That of a to b
// agrees with it: the rules are the same from both sides.
//
// A reflector serves its clients whether the mesh is on or not, so that a
// cluster can move from the one to the other node by node. And other reflectors
// are its clients like any node, as RFC 4456 allows: so a node that becomes a
// reflector remains a client, with the same session.
func (t topology) role(a, b member) (bgp.Role, bool) {
	switch {
	case !t.Between:
		return 0, false
	case a.serves(b):
		return bgp.Client, true
	case b.serves(a):
		return bgp.Reflector, true
	case a.cluster.IsValid() && b.cluster.IsValid(): // of two AS numbers
		return bgp.Mesh, true
	case a.named != nil || b.named != nil:
		return bgp.Mesh, true
	case a.client || b.client:
		return 0, false
	case t.FullMesh:
		return bgp.Mesh, true
	}
	return bgp.Mesh, a.assigned && b.assigned && a.asn == b.asn && !t.reflected[a.asn]
}

// password is that of a session between nodes. Where the flags have one for a
// node they name, both ends find it.
func (c Config) password(a, b member) bgp.Secret {
	if b.addr.Less(a.addr) {
		a, b = b, a
	}
	for _, m := range []member{a, b} {
		if m.named != nil && m.named.Password != "" {
			return m.named.Password
		}
	}
	return c.Password
}

// Peers are those of a node, by address. own is what ReadOwn said of it, and
// nodes are all by name, itself included. What concerns only other nodes is a
// problem, too: the session with them is missing.
func Peers(c Config, own Own, name string, nodes map[string]*cluster.Node) ([]bgp.Peer, []Problem) {
	var problems []Problem
	t := topology{Config: c, reflected: map[uint32]bool{}}
	var others []member
	me := member{name: name, addr: own.Addr, asn: own.ASN}
	holder := map[netip.Addr]string{own.Addr: name}
	ids := map[netip.Addr]bool{}
	for _, n := range inOrder(nodes) {
		m := c.member(n)
		if m.cluster.IsValid() {
			t.reflected[m.asn], ids[m.cluster] = true, true
		}
		if n.Name == name {
			me = m
			continue
		}
		if p := c.addressProblem(n, &m, own, holder); p != nil {
			problems = append(problems, *p)
			continue
		}
		others = append(others, m)
	}
	homeless := func(m *member) bool { return m.home.IsValid() && !ids[m.home] }
	if homeless(&me) {
		problems = append(problems, Problem{[]string{name}, "NoSuchCluster", fmt.Sprintf(
			"annotation %s: no reflector has the cluster ID %s; the node is a client of all reflectors", reflectorClient, me.home)})
		me.home = netip.Addr{}
	}
	var peers []bgp.Peer
	for _, m := range others {
		if homeless(&m) {
			m.home = netip.Addr{}
		}
		if role, ok := t.role(me, m); ok {
			peers = append(peers, t.session(me, m, role))
		}
	}
	outside, more := t.outside(own, me, nodes, peers)
	peers, problems = append(peers, outside...), append(problems, more...)
	if len(peers) == 0 && len(others) > 0 && c.Between {
		problems = append(problems, Problem{[]string{name}, "NoRouteReflector", fmt.Sprintf(
			"--nodes-full-mesh=false, and no other Node of AS %d is a reflector: this node has no BGP session. Annotate one: kubectl annotate node NAME %s=1.0.0.1", me.asn, reflector)})
	}
	slices.SortFunc(peers, func(a, b bgp.Peer) int { return a.Addr.Compare(b.Addr) })
	return peers, problems
}

// inOrder are the nodes, those first that win where two want the same: the
// older one, else the one whose name comes first.
func inOrder(nodes map[string]*cluster.Node) []*cluster.Node {
	return slices.SortedFunc(maps.Values(nodes), precedence)
}

func precedence(a, b *cluster.Node) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
}

// addressProblem says why there can be no session with a node, or nil.
func (c Config) addressProblem(n *cluster.Node, m *member, own Own, holder map[netip.Addr]string) *Problem {
	family := inet.FamilyOf(own.Addr)
	m.addr = n.IP(family)
	switch other := holder[m.addr]; {
	case !m.addr.IsValid():
		return &Problem{[]string{n.Name}, "NoAddress", fmt.Sprintf("node %s has no %s address: there is no BGP session with it", n.Name, family)}
	case other != "":
		return &Problem{[]string{other, n.Name}, "SameAddress", fmt.Sprintf(
			"nodes %s and %s have the same address %s: there is no BGP session with %s; one of the two Nodes is stale or wrong", other, n.Name, m.addr, n.Name)}
	}
	holder[m.addr] = n.Name
	return nil
}

// session is the one with another node. Of each pair the node with the lower
// address waits and the other one dials, so that two connections never meet.
func (c Config) session(me, other member, role bgp.Role) bgp.Peer {
	p := bgp.Peer{
		Addr: other.addr, ASN: other.asn, Port: c.Port, Local: me.addr, Passive: me.addr.Less(other.addr),
		Role: role, Password: c.password(me, other),
	}
	if me.asn != other.asn {
		p.MultihopTTL = farAway
	}
	return p
}

// outside are the peers that are no nodes: those of the flags and those of the
// node's annotations, less those that are nodes. The flags come first.
func (t topology) outside(own Own, me member, nodes map[string]*cluster.Node, inside []bgp.Peer) ([]bgp.Peer, []Problem) {
	taken := map[netip.Addr]string{}
	for _, a := range own.Listen {
		taken[a] = "an address of this node"
	}
	for _, p := range inside {
		taken[p.Addr] = "another node"
	}
	for _, n := range nodes {
		for _, a := range slices.Concat(n.InternalIPs, n.ExternalIPs) {
			taken[a] = "node " + n.Name
		}
	}
	var peers []bgp.Peer
	var problems []Problem
	for i, router := range t.Routers {
		switch {
		case taken[router.Addr] != "":
			if p := t.namedProblem(me, router, nodes); p != nil {
				problems = append(problems, *p)
			}
		case router.ASN == 0:
			problems = append(problems, Problem{[]string{me.name}, "UnknownPeer", fmt.Sprintf(
				"--peer-router-ips: no Node has the address %s, and there is no AS number for it: name that in --peer-router-asns; there is no session with it", router.Addr)})
		default:
			taken[router.Addr] = fmt.Sprintf("entry %d of --peer-router-ips", i+1)
			p := t.router()
			p.Addr, p.ASN, p.Port, p.Password = router.Addr, router.ASN, router.Port, router.Password
			peers = append(peers, p)
		}
	}
	for _, p := range own.External {
		if by := taken[p.Addr]; by != "" {
			problems = append(problems, Problem{[]string{me.name}, "BadAnnotation", fmt.Sprintf("the annotated peer %s is left out: it is %s", p.Addr, by)})
			continue
		}
		peers = append(peers, p)
	}
	return peers, problems
}

// namedProblem says what is odd about a node that the flags name as a peer.
func (t topology) namedProblem(me member, router Router, nodes map[string]*cluster.Node) *Problem {
	for _, n := range nodes {
		if n.Name == me.name || !hasAddr(n, router.Addr) {
			continue
		}
		m := t.member(n)
		switch {
		case router.ASN != 0 && router.ASN != m.asn:
			return &Problem{[]string{me.name}, "OtherASN", fmt.Sprintf(
				"--peer-router-asns has %d for %s, which is node %s of AS %d: the node's own counts", router.ASN, router.Addr, n.Name, m.asn)}
		case !m.cluster.IsValid() && !t.FullMesh:
			return &Problem{[]string{n.Name}, "NotAReflector", fmt.Sprintf(
				"--peer-router-ips names node %s as a peer of all nodes, but it reflects nothing: kubectl annotate node %s %s=1.0.0.1", n.Name, n.Name, reflector)}
		}
	}
	return nil
}

// Contested are those of a node's Pod CIDRs that an older Node has, too: they
// are not to be advertised. Both Nodes are told.
func Contested(me *cluster.Node, cidrs []netip.Prefix, nodes map[string]*cluster.Node) (lost []netip.Prefix, problems []Problem) {
	for _, n := range inOrder(nodes) {
		if n.Name == me.Name {
			continue
		}
		for _, cidr := range cidrs {
			if !slices.ContainsFunc(n.PodCIDRs, cidr.Overlaps) {
				continue
			}
			winner, loser := me, n
			if precedence(n, me) < 0 {
				winner, loser = n, me
				if !slices.Contains(lost, cidr) {
					lost = append(lost, cidr)
				}
			}
			problems = append(problems, Problem{[]string{winner.Name, loser.Name}, "SamePodCIDR", fmt.Sprintf(
				"nodes %s and %s have the same Pod CIDR: %s keeps it, as the older Node, and the Pods of %s cannot be reached; delete the Node %s and register it again",
				winner.Name, loser.Name, winner.Name, loser.Name, loser.Name)})
		}
	}
	return lost, problems
}
