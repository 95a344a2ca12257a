// Package route drives the kernel's routing tables through rtnetlink.
package route

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// Protocol is the routing protocol number that marks every route of ours, in
// every table (see rtnetlink(7); 17 is what "ip route show proto 17" lists).
const Protocol = 17

// The kernel's tables that the agent writes to (RT_TABLE_*).
const (
	Main  = 254
	Local = 255
)

// Type is the type of a route (RTN_*).
type Type uint8

// The types in use: to a next hop, and delivered on this host.
const (
	Unicast     Type = 1
	LocalType   Type = 2
	Unreachable Type = 7
)

// NextHop is one way to a destination. Via is invalid for a directly
// connected destination; Link may be empty where Via decides it.
type NextHop struct {
	Via  netip.Addr
	Link string
	// OnLink takes the next hop for a neighbour on the link whatever the link's
	// networks are: tunnels have none.
	OnLink bool
}

// Key identifies a route among ours: one route a destination and table.
type Key struct {
	Table int
	Dst   netip.Prefix
}

// Route is a route with our Protocol.
type Route struct {
	Key
	Type Type
	// Src is the preferred source address, or invalid.
	Src netip.Addr
	// NextHops has one entry, or several of equal cost.
	NextHops []NextHop
}

// Change makes the route with a Key as Route says, which has the same Key, or
// removes ours where Route is nil.
type Change struct {
	Key   Key
	Route *Route
}

// ErrForeign means that somebody else's route has the same destination, table
// and priority: the kernel holds one such route, and theirs stays.
var ErrForeign = errors.New("a route of another owner has the same destination")

// Interface is the routes with our Protocol of one network namespace. Routes
// of others are neither listed nor touched.
type Interface interface {
	// List returns our routes of one table, both families.
	List(table int) (map[Key]Route, error)
	// ListAll returns our routes of all tables.
	ListAll() (map[Key]Route, error)
	// Apply carries the changes out in order, many a message, and returns one
	// error a change, nil where it took effect. A failed change does not stop
	// those after it. A route is added, or the one with its Key changed in one
	// step; that fails with ErrForeign rather than overwrite another owner's
	// route. A local route is added before that of a link which cedes. To remove what is gone is no error.
	Apply([]Change) []error
	// Rules returns our rules, of both families.
	Rules() ([]Rule, error)
	// AddRule adds a rule of ours; one that is there already is no error.
	AddRule(Rule) error
	// DeleteRule removes a rule of ours; one that is gone already is no error.
	DeleteRule(Rule) error
	// Watch calls fn after routes or addresses of any link may have gone, until
	// ctx ends. Several changes close together are one call.
	Watch(ctx context.Context, fn func()) error
}

// String is the form of ip route, on one line, without what ip says of every
// route of its kind (scope, weight, metric, preference):
// "10.244.2.0/24 via 192.168.66.12 dev vec0 proto 17".
func (r Route) String() string {
	var b strings.Builder
	switch r.Type {
	case LocalType:
		b.WriteString("local ")
	case Unreachable:
		b.WriteString("unreachable ")
	}
	b.WriteString(dstText(r.Dst))
	if len(r.NextHops) == 1 {
		b.WriteString(r.NextHops[0].String())
	}
	fmt.Fprintf(&b, " proto %d", Protocol)
	if r.Src.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Src)
	}
	if len(r.NextHops) == 1 && r.NextHops[0].OnLink {
		b.WriteString(" onlink")
	}
	if len(r.NextHops) > 1 {
		for _, hop := range r.NextHops {
			fmt.Fprintf(&b, " nexthop%s", hop)
			if hop.OnLink {
				b.WriteString(" onlink")
			}
		}
	}
	return b.String()
}

func dstText(dst netip.Prefix) string {
	switch {
	case dst.Bits() == 0:
		return "default"
	case dst.IsSingleIP():
		return dst.Addr().String()
	}
	return dst.String()
}

// String is the form of ip route: " via 192.168.66.12 dev vec0".
func (h NextHop) String() string {
	var b strings.Builder
	if h.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", h.Via)
	}
	if h.Link != "" {
		fmt.Fprintf(&b, " dev %s", h.Link)
	}
	return b.String()
}

// Family is the route's address family.
func (r Route) Family() inet.Family { return inet.FamilyOf(r.Dst.Addr()) }
