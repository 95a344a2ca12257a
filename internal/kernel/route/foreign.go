package route

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
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

// ForeignRule is a rule of another owner (ip-rule(8)).
type ForeignRule struct {
	// Text is the form of ip rule.
	Text     string
	Priority int
	Table    int
	Mark     uint32
	// Src is invalid for all sources.
	Src netip.Prefix

	rule netlink.Rule
}

// ForeignRules returns the rules of other owners, of both families.
func (k *Kernel) ForeignRules() ([]ForeignRule, error) {
	var rules []ForeignRule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := k.rules.RuleList(family)
		for n := 1; errors.Is(err, netlink.ErrDumpInterrupted) && n < dumpAttempts; n++ {
			list, err = k.rules.RuleList(family)
		}
		if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ip rule show: %w", err)
		}
		for _, r := range list {
			if r.Protocol == Protocol {
				continue
			}
			r.Family = family
			f := ForeignRule{Priority: r.Priority, Table: r.Table, Mark: r.Mark, rule: r}
			from, mark := "all", ""
			if r.Src != nil {
				bits, _ := r.Src.Mask.Size()
				f.Src = netip.PrefixFrom(toAddr(r.Src.IP), bits)
				from = dstText(f.Src)
			}
			if r.Mark != 0 {
				mark = fmt.Sprintf(" fwmark 0x%x", r.Mark)
			}
			f.Text = fmt.Sprintf("%d: from %s%s lookup %d", r.Priority, from, mark, r.Table)
			rules = append(rules, f)
		}
	}
	return rules, nil
}

// DeleteForeignRule removes a rule that ForeignRules returned; one that is gone
// already is no error.
func (k *Kernel) DeleteForeignRule(r ForeignRule) error {
	if err := k.rules.RuleDel(&r.rule); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("ip rule delete %s: %w", r.Text, err)
	}
	return nil
}

// DeleteForeignTable removes the routes of other owners from a table and
// returns them, in the form of ip route.
func (k *Kernel) DeleteForeignTable(table int) (removed []string, err error) {
	list, err := k.dump(table, 0)
	if err != nil {
		return nil, fmt.Errorf("ip route show table %d: %w", table, err)
	}
	for i := range list {
		if list[i].Protocol == Protocol {
			continue
		}
		text := fmt.Sprintf("%s table %d", k.foreignText(&list[i]), table)
		if err := k.handle.RouteDel(&list[i]); err != nil && !errors.Is(err, syscall.ESRCH) {
			return removed, fmt.Errorf("ip route delete %s: %w", text, err)
		}
		removed = append(removed, text)
	}
	return removed, nil
}
