package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// packet is the first of a connection, or not even part of one.
type packet struct {
	src, dst    netip.Addr
	protocol    inet.Protocol // 0 for icmpType
	port        uint16        // of the destination
	icmpType    string        // "135", with no protocol
	established bool
	local       bool // sent by this host
	toHost      bool // to this host
	bridged     bool // from one port of a bridge to another
	in, out     string
	broadcast   bool // by its destination
	mark        uint32
}

func (p *packet) protocolName() string {
	switch {
	case p.icmpType == "":
		return p.protocol.String()
	case p.dst.Is4():
		return "icmp"
	}
	return "ipv6-icmp"
}

// tracer sends packets through rules and sets as iptables-save and ipset
// print them: it knows nothing of how they were made. The text is read once,
// into what can be evaluated quickly.
type tracer struct {
	families map[inet.Family]map[string]*chain
	sets     map[string]members
}

type chain struct{ rules []parsedRule }

type parsedRule struct {
	matches []match
	target  string // of the extensions, or ""
	to      *chain // where the target is a chain
	goes    bool   // -g
	value   uint32 // of MARK
	mask    uint32
}

type match struct {
	not bool
	fn  func(*packet) bool
}

// members is a set's content, by what a packet asks for.
type members struct {
	kind    ipset.Type
	entries map[ipset.Entry]bool // false where nomatch
	bits    []int                // lengths of prefixes, longest first
}

func (w *world) tracer() *tracer {
	t := &tracer{families: map[inet.Family]map[string]*chain{}, sets: map[string]members{}}
	sets, _ := w.sets.List("")
	for name, set := range sets {
		t.sets[name] = newMembers(set)
	}
	for family, fake := range w.tables() {
		t.families[family] = t.parse(fake.Text(iptables.Filter))
	}
	return t
}

func newMembers(set ipset.Set) members {
	m := members{kind: set.Type, entries: make(map[ipset.Entry]bool, len(set.Entries))}
	for e := range set.Entries {
		match := !e.NoMatch
		e.NoMatch = false
		m.entries[e] = match
		if !slices.Contains(m.bits, e.Prefix.Bits()) {
			m.bits = append(m.bits, e.Prefix.Bits())
		}
	}
	slices.SortFunc(m.bits, func(a, b int) int { return b - a })
	return m
}

func (m members) has(addr netip.Addr, p *packet) bool {
	if m.kind == ipset.HashIPPort {
		return p.protocol != 0 && m.entries[ipset.IPPort(p.protocol, netip.AddrPortFrom(addr, p.port))]
	}
	for _, bits := range m.bits {
		if prefix, err := addr.Prefix(bits); err == nil {
			if match, there := m.entries[ipset.Entry{Prefix: prefix}]; there {
				return match
			}
		}
	}
	return false
}

// passes says whether a built-in chain lets a packet through.
func (t *tracer) passes(builtin string, p packet) bool {
	v := t.walk(t.families[inet.FamilyOf(p.src)][builtin], &p)
	return v != "REJECT" && v != "DROP"
}

// walk returns the verdict of a chain: a final one, or RETURN.
func (t *tracer) walk(c *chain, p *packet) string {
	for i := range c.rules {
		r := &c.rules[i]
		if !r.holds(p) {
			continue
		}
		switch {
		case r.to != nil:
			if v := t.walk(r.to, p); v != "RETURN" || r.goes {
				return v
			}
		case r.target == "MARK":
			p.mark = p.mark&^r.mask ^ r.value
		case r.target == "RETURN", r.target == "REJECT", r.target == "DROP", r.target == "ACCEPT":
			return r.target
		case r.target != "NFLOG" && r.target != "":
			panic("unknown target " + r.target)
		}
	}
	return "RETURN"
}

func (r *parsedRule) holds(p *packet) bool {
	for _, m := range r.matches {
		if m.fn(p) == m.not {
			return false
		}
	}
	return true
}

// parse reads the text of iptables-save.
func (t *tracer) parse(text string) map[string]*chain {
	chains := map[string]*chain{}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, ":"); ok {
			name, _, _ := strings.Cut(rest, " ")
			chains[name] = &chain{}
		}
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "-A "); ok {
			name, rule, _ := strings.Cut(rest, " ")
			chains[name].rules = append(chains[name].rules, t.parseRule(chains, split(rule)))
		}
	}
	return chains
}

func (t *tracer) parseRule(chains map[string]*chain, words []string) (r parsedRule) {
	for i := 0; i < len(words); {
		not := words[i] == "!"
		if not {
			i++
		}
		if words[i] == "-j" || words[i] == "-g" {
			r.target, r.to, r.goes = words[i+1], chains[words[i+1]], words[i] == "-g"
			if r.target == "MARK" {
				r.value, r.mask = number(words[i+3])
			}
			return r
		}
		fn, n := t.parseMatch(words[i:])
		if fn != nil {
			r.matches = append(r.matches, match{not, fn})
		}
		i += n
	}
	return r // one that counts only
}

// parseMatch reads the match that words begin with and says how many words it
// has. One that it does not know is a mistake in the tests.
func (t *tracer) parseMatch(words []string) (fn func(*packet) bool, n int) {
	value := words[1]
	switch words[0] {
	case "-m": // what the module matches comes next
		return nil, 2
	case "--comment", "--limit", "--limit-burst":
		return nil, 2
	case "-s":
		prefix := netip.MustParsePrefix(value)
		return func(p *packet) bool { return prefix.Contains(p.src) }, 2
	case "-d":
		prefix := netip.MustParsePrefix(value)
		return func(p *packet) bool { return prefix.Contains(p.dst) }, 2
	case "-p":
		return func(p *packet) bool { return p.protocolName() == value }, 2
	case "--dport":
		first, last := ports(value)
		return func(p *packet) bool { return p.protocol != 0 && first <= p.port && p.port <= last }, 2
	case "--icmpv6-type", "--icmp-type":
		return func(p *packet) bool { return p.icmpType == value }, 2
	case "--ctstate":
		return func(p *packet) bool { return hasState(p, value) }, 2
	case "--mark":
		v, mask := number(value)
		return func(p *packet) bool { return p.mark&mask == v }, 2
	case "--src-type":
		return func(p *packet) bool { return p.local }, 2
	case "--dst-type":
		if value == "BROADCAST" {
			return func(p *packet) bool { return p.broadcast }, 2
		}
		return func(p *packet) bool { return p.toHost }, 2
	case "-i":
		return func(p *packet) bool { return p.in == value }, 2
	case "-o":
		return func(p *packet) bool { return p.out == value }, 2
	case "--physdev-is-bridged":
		return func(p *packet) bool { return p.bridged }, 1
	case "--match-set":
		return t.matchSet(words[1], words[2]), 3
	}
	panic(fmt.Sprintf("unknown match %q", words))
}

// hasState: neighbour discovery belongs to no connection and is not tracked
// (net/netfilter/nf_conntrack_proto_icmpv6.c).
func hasState(p *packet, states string) bool {
	state := "NEW"
	switch {
	case p.established:
		state = "ESTABLISHED"
	case p.icmpType != "" && !p.dst.Is4() && (p.icmpType >= "130" && p.icmpType <= "136" || p.icmpType == "143"):
		state = "UNTRACKED"
	}
	return slices.Contains(strings.Split(states, ","), state)
}

func (t *tracer) matchSet(name, flags string) func(*packet) bool {
	set, ok := t.sets[name]
	if !ok {
		panic("no set " + name)
	}
	if strings.HasPrefix(flags, "src") {
		return func(p *packet) bool { return set.has(p.src, p) }
	}
	return func(p *packet) bool { return set.has(p.dst, p) }
}

// number reads "0x10000/0x10000".
func number(text string) (value, mask uint32) {
	first, second, masked := strings.Cut(text, "/")
	v, _ := strconv.ParseUint(first, 0, 32)
	m, _ := strconv.ParseUint(second, 0, 32)
	if !masked {
		m = 1<<32 - 1
	}
	return uint32(v), uint32(m)
}

// ports reads "80" and "80:90".
func ports(text string) (first, last uint16) {
	a, b, several := strings.Cut(text, ":")
	if !several {
		b = a
	}
	f, _ := strconv.ParseUint(a, 10, 16)
	l, _ := strconv.ParseUint(b, 10, 16)
	return uint16(f), uint16(l)
}

// split splits a rule into words, quoted ones whole.
func split(rule string) []string {
	var words []string
	for i, part := range strings.Split(rule, `"`) {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}
