package route

import (
	"fmt"
	"net/netip"
)

// Foreign is a route of another owner.
type Foreign struct {
	Dst netip.Prefix
	// Link is where it leads out; empty for several ways, or none.
	Link string
	// Text is the route in the form of ip route.
	Text string
}

// Foreign returns the routes of a table that are not ours, in the order of the
// kernel.
func (k *Kernel) Foreign(table int) ([]Foreign, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list, err := k.dump(table, 0)
	if err != nil {
		return nil, fmt.Errorf("ip route show table %d: %w", table, err)
	}
	names, err := k.linkNames(list)
	if err != nil {
		return nil, err
	}
	var routes []Foreign
	for i := range list {
		if r := &list[i]; r.Protocol != Protocol {
			f := Foreign{Dst: prefixOf(r), Link: names[r.LinkIndex]}
			f.Text = dstText(f.Dst) + NextHop{Via: toAddr(r.Gw), Link: f.Link}.String() + fmt.Sprintf(" proto %s", r.Protocol)
			routes = append(routes, f)
		}
	}
	return routes, nil
}
