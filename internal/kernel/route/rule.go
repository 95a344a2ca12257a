package route

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/inet"
)

// Rule makes packets from a network look into a table before those of the
// rules with a higher Priority (ip-rule(8)). Ours have our Protocol.
type Rule struct {
	Priority int
	Src      netip.Prefix
	Table    int
}

// String is the form of ip rule: "1000: from 10.244.1.0/24 lookup 77".
func (r Rule) String() string {
	return fmt.Sprintf("%d: from %s lookup %d", r.Priority, dstText(r.Src), r.Table)
}

func compareRules(a, b Rule) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.Src.Addr().Compare(b.Src.Addr()), cmp.Compare(a.Src.Bits(), b.Src.Bits()), cmp.Compare(a.Table, b.Table))
}

func (r Rule) check() error {
	if _, err := checkKey(Key{Table: r.Table, Dst: r.Src}); err != nil {
		return err
	}
	if r.Priority < 1 || r.Priority > 1<<15 {
		return fmt.Errorf("priority %d is not from 1 to %d: %w", r.Priority, 1<<15, syscall.EINVAL)
	}
	return nil
}

func ruleError(verb string, r Rule, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ip rule %s %s: %w", verb, r, err)
}

// Rules implements Interface.
func (k *Kernel) Rules() ([]Rule, error) {
	var rules []Rule
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
			if r.Protocol != Protocol || r.Src == nil {
				continue
			}
			bits, _ := r.Src.Mask.Size()
			rules = append(rules, Rule{Priority: r.Priority, Src: netip.PrefixFrom(toAddr(r.Src.IP), bits), Table: r.Table})
		}
	}
	return rules, nil
}

// AddRule implements Interface.
func (k *Kernel) AddRule(r Rule) error {
	err := r.check()
	if err == nil {
		err = k.rules.RuleAdd(r.message())
	}
	if errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return ruleError("add", r, err)
}

// DeleteRule implements Interface.
func (k *Kernel) DeleteRule(r Rule) error {
	err := r.check()
	if err == nil {
		err = k.rules.RuleDel(r.message())
	}
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return ruleError("delete", r, err)
}

func (r Rule) message() *netlink.Rule {
	msg := netlink.NewRule()
	msg.Priority, msg.Table, msg.Protocol, msg.Src = r.Priority, r.Table, Protocol, toIPNet(r.Src)
	msg.Family = unix.AF_INET
	if inet.FamilyOf(r.Src.Addr()) == inet.IPv6 {
		msg.Family = unix.AF_INET6
	}
	return msg
}

// Rules implements Interface.
func (f *Fake) Rules() ([]Rule, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Keys(f.rules), compareRules), nil
}

// AddRule implements Interface.
func (f *Fake) AddRule(r Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.check(); err != nil {
		return ruleError("add", r, err)
	}
	if _, ok := f.rules[r]; !ok {
		f.rules[r] = struct{}{}
		f.changes++
	}
	return nil
}

// DeleteRule implements Interface.
func (f *Fake) DeleteRule(r Rule) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.check(); err != nil {
		return ruleError("delete", r, err)
	}
	if _, ok := f.rules[r]; ok {
		delete(f.rules, r)
		f.changes++
	}
	return nil
}
