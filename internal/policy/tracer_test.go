package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// packet is the first of a connection.
type packet struct {
	src, dst    netip.Addr
	protocol    inet.Protocol
	port        uint16 // of the destination
	established bool
	local       bool // sent by this host
	toHost      bool // to this host
	mark        uint32
}

// tracer sends packets through rules and sets as iptables-save and ipset
// print them: it knows nothing of how they were made.
type tracer struct {
	chains map[string][]string
	sets   map[string]ipset.Set
}

func (w *world) tracer() *tracer {
	t := &tracer{chains: map[string][]string{}}
	t.sets, _ = w.sets.List("")
	for _, line := range strings.Split(w.rules.Text(iptables.Filter), "\n") {
		if rest, ok := strings.CutPrefix(line, "-A "); ok {
			chain, rule, _ := strings.Cut(rest, " ")
			t.chains[chain] = append(t.chains[chain], rule)
		}
	}
	return t
}

// passes says whether a built-in chain lets a packet through.
func (t *tracer) passes(chain string, p packet) bool {
	return t.walk(chain, &p) != "REJECT"
}

// walk returns the verdict of a chain: a final one, or RETURN.
func (t *tracer) walk(chain string, p *packet) string {
	for _, rule := range t.chains[chain] {
		target, ok := t.match(rule, p)
		if !ok {
			continue
		}
		switch name := target[0]; name {
		case "NFLOG":
		case "MARK":
			setMark(p, target[2])
		case "RETURN", "REJECT", "ACCEPT":
			return name
		default:
			if v := t.walk(name, p); v != "RETURN" {
				return v
			}
		}
	}
	return "RETURN"
}

func setMark(p *packet, text string) {
	value, mask, _ := strings.Cut(text, "/")
	v, _ := strconv.ParseUint(value, 0, 32)
	m, _ := strconv.ParseUint(mask, 0, 32)
	p.mark = p.mark&^uint32(m) ^ uint32(v)
}

// match says whether all of a rule's matches hold, and returns its target. A
// match that it does not know is a mistake in the tests.
func (t *tracer) match(rule string, p *packet) (target []string, ok bool) {
	words := split(rule)
	holds := true
	for i := 0; i < len(words); {
		not := words[i] == "!"
		if not {
			i++
		}
		m, n := t.one(words[i:], p)
		if n == 0 {
			return words[i+1:], holds
		}
		holds = holds && m != not
		i += n
	}
	panic("no target in " + rule)
}

// one evaluates the match that words begin with and says how many words it
// has; none where they begin with the target.
func (t *tracer) one(words []string, p *packet) (holds bool, n int) {
	switch words[0] {
	case "-j":
		return true, 0
	case "-s":
		return netip.MustParsePrefix(words[1]).Contains(p.src), 2
	case "-d":
		return netip.MustParsePrefix(words[1]).Contains(p.dst), 2
	case "-p":
		return words[1] == p.protocol.String(), 2
	case "--dport":
		return inRange(words[1], p.port), 2
	case "--comment", "--limit", "--limit-burst":
		return true, 2
	case "--ctstate":
		return p.established, 2
	case "--mark":
		value, _, _ := strings.Cut(words[1], "/")
		v, _ := strconv.ParseUint(value, 0, 32)
		return p.mark&uint32(v) == uint32(v), 2
	case "--src-type":
		return p.local, 2
	case "--dst-type":
		return p.toHost, 2
	case "--match-set":
		return t.inSet(words[1], words[2], p), 3
	case "-m":
		// The module's name: what it matches comes next, negated or not.
		if words[2] == "!" {
			m, k := t.one(words[3:], p)
			return !m, k + 3
		}
		return true, 2
	}
	panic(fmt.Sprintf("unknown match %q", words))
}

func (t *tracer) inSet(name, flags string, p *packet) bool {
	set, ok := t.sets[name]
	if !ok {
		panic("no set " + name)
	}
	addr := p.dst
	if strings.HasPrefix(flags, "src") {
		addr = p.src
	}
	if set.Type == ipset.HashIPPort {
		_, in := set.Entries[ipset.IPPort(p.protocol, netip.AddrPortFrom(addr, p.port))]
		return in
	}
	best, in := -1, false
	for e := range set.Entries {
		if e.Prefix.Contains(addr) && e.Prefix.Bits() > best {
			best, in = e.Prefix.Bits(), !e.NoMatch
		}
	}
	return in
}

func inRange(text string, port uint16) bool {
	first, last, ok := strings.Cut(text, ":")
	if !ok {
		last = first
	}
	a, _ := strconv.Atoi(first)
	b, _ := strconv.Atoi(last)
	return a <= int(port) && int(port) <= b
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
