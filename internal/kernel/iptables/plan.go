package iptables

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// plan is one table's transaction: what to write, and what the table is after
// that.
type plan struct {
	table   Table
	declare []string // chains to create, or to empty
	rules   []string // "CHAIN RULE" to append
	edits   []string // commands on chains that exist, in order
	jumps   []string // commands on built-in chains, in order
	remove  []string // chains to delete
	chains  map[string][]string
	changes int
}

// write appends the plan as input of iptables-restore: chains are there before
// rules lead to them, and nothing leads to a chain when it goes.
func (p *plan) write(b *strings.Builder) {
	fmt.Fprintf(b, "*%s\n", p.table)
	for _, chain := range p.declare {
		fmt.Fprintf(b, ":%s - [0:0]\n", chain)
	}
	for _, rule := range p.rules {
		fmt.Fprintf(b, "-A %s\n", rule)
	}
	for _, command := range slices.Concat(p.edits, p.jumps) {
		fmt.Fprintln(b, command)
	}
	for _, chain := range p.remove {
		fmt.Fprintf(b, "-X %s\n", chain)
	}
	b.WriteString("COMMIT\n")
}

// commit notes in what is remembered of the table that the plan took effect.
func (p *plan) commit(chains map[string][]string) {
	for _, chain := range p.remove {
		delete(chains, chain)
	}
	maps.Copy(chains, p.chains)
}

// plan is how to get from what the table holds to what the owners want in it.
func (r *Ruleset) plan(table Table, owners []string) *plan {
	p := &plan{table: table, chains: map[string][]string{}}
	for _, owner := range owners {
		r.planChains(p, r.sections[owner])
	}
	for _, chain := range builtin[table] {
		r.planJumps(p, chain)
	}
	return p
}

func (r *Ruleset) planChains(p *plan, s Section) {
	have, want := r.tables[p.table], s.Tables[p.table].Chains
	for _, name := range slices.Sorted(maps.Keys(want)) {
		old, exists := have[name]
		if exists && sameRules(old, want[name]) {
			have[name] = want[name] // one copy of the text is enough
			continue
		}
		if exists && len(old) > 0 && len(want[name]) > 0 {
			p.change(name, old, want[name])
			continue
		}
		p.rewrite(name, want[name])
	}
	stale := map[string]bool{}
	for name := range have {
		if _, wanted := want[name]; !wanted && s.owns(name) {
			stale[name] = true
		}
	}
	if len(stale) > 0 {
		r.planStale(p, s, stale)
	}
}

// rewrite replaces the rules of a chain, which need not exist.
func (p *plan) rewrite(name string, rules []string) {
	p.declare = append(p.declare, name)
	for _, rule := range rules {
		p.rules = append(p.rules, strings.TrimSuffix(name+" "+rule, " "))
	}
	p.chains[name] = rules
	p.changes++
}

// planStale deletes chains. They are emptied first, so that they can refer to
// each other; one that rules of others refer to must stay.
func (r *Ruleset) planStale(p *plan, s Section, stale map[string]bool) {
	have := r.tables[p.table]
	referred := r.foreignReferences(p.table, s, stale)
	for _, name := range slices.Sorted(maps.Keys(stale)) {
		from, kept := referred[name]
		if kept {
			r.reportKept(p.table, name, from)
			if len(have[name]) > 0 {
				p.rewrite(name, nil)
			}
			continue
		}
		p.declare = append(p.declare, name)
		p.remove = append(p.remove, name)
		p.changes++
	}
}

// foreignReferences are the stale chains that a chain of somebody else leads
// to, and that chain. Built-in chains do not count: jumps there are ours.
func (r *Ruleset) foreignReferences(table Table, s Section, stale map[string]bool) map[string]string {
	referred := map[string]string{}
	for name, rules := range r.tables[table] {
		if s.owns(name) || isBuiltin(table, name) {
			continue
		}
		for _, rule := range rules {
			if to := target(rule); stale[to] {
				referred[to] = name
			}
		}
	}
	return referred
}

func (r *Ruleset) reportKept(table Table, name, from string) {
	key := string(table) + "/" + name
	if r.kept[key] {
		return
	}
	r.kept[key] = true
	r.log.Warn("a chain is no longer needed but a rule of somebody else leads to it; it stays, empty, until that rule is gone",
		"table", table, "chain", name, "referredFrom", from)
}

// planJumps puts the jumps of all owners at the head of a built-in chain.
func (r *Ruleset) planJumps(p *plan, chain string) {
	have := r.tables[p.table][chain]
	e := editor{chain: chain, rules: slices.Clone(have)}
	want := r.head(p, chain)
	for _, rule := range r.surplus(have, want) {
		e.remove(rule)
	}
	at := 0
	for _, rule := range want {
		for at < len(e.rules) && r.pending(e.rules[at]) {
			at++
		}
		if at >= len(e.rules) || !same(e.rules[at], rule) {
			if e.index(rule) >= 0 {
				e.remove(rule)
			}
			e.insert(at, rule)
		}
		at++
	}
	if len(e.commands) > 0 {
		p.jumps = append(p.jumps, e.commands...)
		p.chains[chain] = e.rules
		p.changes += len(e.commands)
	}
}

// head is what shall stand at the head of a built-in chain: the jumps of all
// owners known so far, less those to a chain that could not be made yet.
func (r *Ruleset) head(p *plan, chain string) []string {
	var jumps []Jump
	for _, owner := range slices.Sorted(maps.Keys(r.sections)) {
		for _, j := range r.sections[owner].Tables[p.table].Jumps {
			if j.Chain == chain && r.willExist(p, target(j.Rule)) {
				jumps = append(jumps, j)
			}
		}
	}
	slices.SortStableFunc(jumps, func(a, b Jump) int { return a.Rank - b.Rank })
	var rules []string
	for _, j := range jumps {
		if !slices.ContainsFunc(rules, func(r string) bool { return same(r, j.Rule) }) {
			rules = append(rules, j.Rule)
		}
	}
	return rules
}

func (r *Ruleset) willExist(p *plan, chain string) bool {
	_, made := p.chains[chain]
	_, there := r.tables[p.table][chain]
	return made || there && !slices.Contains(p.remove, chain)
}

// surplus are the rules that lead to owned chains and are not wanted, or stand
// there more than once.
func (r *Ruleset) surplus(have, want []string) []string {
	seen := make([]bool, len(want))
	var surplus []string
	for _, rule := range have {
		if r.ownerOf(target(rule)) == "" {
			continue
		}
		i := slices.IndexFunc(want, func(w string) bool { return same(w, rule) })
		if i < 0 || seen[i] {
			surplus = append(surplus, rule)
			continue
		}
		seen[i] = true
	}
	return surplus
}

// pending says whether a rule is the jump of an owner that was not heard of
// yet.
func (r *Ruleset) pending(rule string) bool {
	to := target(rule)
	return strings.HasPrefix(to, routerPrefix) && r.ownerOf(to) == ""
}

// editor changes a built-in chain and notes the commands for that.
type editor struct {
	chain    string
	rules    []string
	commands []string
}

func (e *editor) index(rule string) int {
	return slices.IndexFunc(e.rules, func(r string) bool { return same(r, rule) })
}

// remove deletes the first rule that is the same, as -D does.
func (e *editor) remove(rule string) {
	i := e.index(rule)
	e.commands = append(e.commands, fmt.Sprintf("-D %s %s", e.chain, e.rules[i]))
	e.rules = slices.Delete(e.rules, i, i+1)
}

func (e *editor) insert(at int, rule string) {
	e.commands = append(e.commands, fmt.Sprintf("-I %s %d %s", e.chain, at+1, rule))
	e.rules = slices.Insert(e.rules, at, rule)
}
