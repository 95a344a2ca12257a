package config

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"
)

// listValue is a pflag.Value of several values. Each use of the flag adds to
// those before it, and the first one replaces the default: so did the flags of
// earlier releases, and manifests write them that way.
type listValue[T any] struct {
	value[[]T]
	most  int // 0: any number
	given bool
}

func (v *listValue[T]) Set(s string) error {
	var list []T
	if v.given {
		list = *v.p
	}
	if s != "" { // templates write an empty list that way
		parsed, err := v.kind.parse(s)
		if err != nil {
			return err
		}
		list = append(list, parsed...)
	}
	if v.most > 0 && len(list) > v.most {
		return fmt.Errorf("too many; allowed are at most %d", v.most)
	}
	*v.p, v.given = list, true
	return nil
}

// addList declares a flag of several values.
func addList[T any](f *flags, p *[]T, name string, initial []T, k kind[[]T], usage string) *listValue[T] {
	*p = initial
	v := &listValue[T]{value: value[[]T]{p: p, kind: k}}
	f.declare(v, name, "", usage)
	return v
}

// addPrefixes declares a flag of at most so many CIDRs.
func (f *flags) addPrefixes(p *[]netip.Prefix, name string, initial []netip.Prefix, most int, usage string) {
	addList(f, p, name, initial, listOf("cidr", func(s string) (netip.Prefix, error) { return f.prefix(name, s) }), usage).most = most
}

// prefix reads a CIDR. Bits beyond its length are dropped, as earlier releases
// did, and that is said: the range then is wider than it may look. Of length 0
// it is every address, and one that names an address means something else.
func (f *flags) prefix(name, s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not a CIDR; allowed is one such as 10.96.0.0/12", s)
	}
	masked := p.Masked()
	switch {
	case p == masked:
	case p.Bits() == 0:
		return p, fmt.Errorf("%s is every address; that is written %s, and the one address %s/%d", p, masked, p.Addr(), p.Addr().BitLen())
	default:
		f.masked = append(f.masked, fmt.Sprintf("--%s: %s has bits set beyond its prefix length; the network %s is taken", name, p, masked))
	}
	return masked, nil
}

// listOf reads values with commas between.
func listOf[T any](name string, parse func(string) (T, error)) kind[[]T] {
	return kind[[]T]{name + "[," + name + "]", func(s string) ([]T, error) {
		var list []T
		for i, field := range strings.Split(s, ",") {
			one, err := parse(strings.TrimSpace(field))
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i+1, err)
			}
			list = append(list, one)
		}
		return list, nil
	}, func(list []T) string {
		words := make([]string, len(list))
		for i, one := range list {
			words[i] = fmt.Sprint(one)
		}
		return strings.Join(words, ",")
	}}
}

// declare adds a flag to the section that was begun last.
func (f *flags) declare(v pflag.Value, name, letter, usage string) *pflag.Flag {
	flag := f.set.VarPF(v, name, letter, usage)
	last := &f.sections[len(f.sections)-1]
	last.flags = append(last.flags, flag)
	return flag
}
