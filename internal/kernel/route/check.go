package route

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/kube-router/kube-router/internal/inet"
)

// Satisfies says that a route of the kernel is what want asks for. A next hop
// of want without a Link is satisfied by any link; the order of next hops does
// not matter.
func (r Route) Satisfies(want Route) bool {
	if r.Key != want.Key || r.Type != want.Type || r.Src != want.Src || len(r.NextHops) != len(want.NextHops) {
		return false
	}
	have, wanted := sortedHops(r.NextHops), sortedHops(want.NextHops)
	for i, hop := range wanted {
		if hop.Via != have[i].Via || hop.OnLink != have[i].OnLink || hop.Link != "" && hop.Link != have[i].Link {
			return false
		}
	}
	return true
}

func sortedHops(hops []NextHop) []NextHop {
	return slices.SortedFunc(slices.Values(hops), func(a, b NextHop) int {
		if c := a.Via.Compare(b.Via); c != 0 {
			return c
		}
		return strings.Compare(a.Link, b.Link)
	})
}

// check refuses what the kernel cannot be asked for.
func check(r Route) error {
	family, err := checkKey(r.Key)
	if err != nil {
		return err
	}
	if r.Src.IsValid() && inet.FamilyOf(r.Src) != family {
		return fmt.Errorf("source %s is of another address family: %w", r.Src, syscall.EINVAL)
	}
	switch r.Type {
	case Unreachable:
		if len(r.NextHops) > 0 {
			return fmt.Errorf("an unreachable route has no next hop: %w", syscall.EINVAL)
		}
		return nil
	case LocalType:
		if len(r.NextHops) != 1 || r.NextHops[0].Via.IsValid() || r.NextHops[0].Link == "" {
			return fmt.Errorf("a local route has one link and no next hop: %w", syscall.EINVAL)
		}
		return nil
	case Unicast:
		return checkHops(r.NextHops, family)
	}
	return fmt.Errorf("route type %d is not in use: %w", r.Type, syscall.EINVAL)
}

func checkKey(k Key) (inet.Family, error) {
	if !k.Dst.IsValid() || k.Dst != k.Dst.Masked() || k.Dst.Addr().Is4In6() {
		return 0, fmt.Errorf("destination %s is no network: %w", k.Dst, syscall.EINVAL)
	}
	if k.Table < 1 || k.Table > 1<<31-1 {
		return 0, fmt.Errorf("table %d does not exist: %w", k.Table, syscall.EINVAL)
	}
	return inet.FamilyOf(k.Dst.Addr()), nil
}

func checkHops(hops []NextHop, family inet.Family) error {
	if len(hops) == 0 {
		return fmt.Errorf("a route needs a next hop: %w", syscall.EINVAL)
	}
	for _, hop := range hops {
		if !hop.Via.IsValid() && hop.Link == "" {
			return fmt.Errorf("a next hop needs an address or a link: %w", syscall.EINVAL)
		}
		if hop.OnLink && (!hop.Via.IsValid() || hop.Link == "") {
			return fmt.Errorf("a next hop that is taken for a neighbour needs an address and a link: %w", syscall.EINVAL)
		}
		if hop.Via.IsValid() && inet.FamilyOf(hop.Via) != family {
			return fmt.Errorf("next hop %s is of another address family: %w", hop.Via, syscall.EINVAL)
		}
	}
	return nil
}

func replaceError(r Route, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ip route replace %s%s: %w", r, tableText(r.Table), err)
}

func deleteError(k Key, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ip route delete %s proto %d%s: %w", dstText(k.Dst), Protocol, tableText(k.Table), err)
}

func tableText(table int) string {
	switch table {
	case Main:
		return ""
	case Local:
		return " table local"
	}
	return fmt.Sprintf(" table %d", table)
}
