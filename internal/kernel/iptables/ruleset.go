package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kube-router/kube-router/internal/inet"
)

// maxChainLen is the longest name of a chain in bytes
// (XT_EXTENSION_MAXNAMELEN less the terminating zero).
const maxChainLen = 28

// routerPrefix begins the names of the chains that built-in chains lead to, of
// all owners. Jumps to such chains are left at the head while the owner has
// not been heard of yet: a restart must not move them back and forth.
const routerPrefix = "KUBE-ROUTER-"

// Ruleset makes the kernel follow the Sections of all owners in one address
// family. It reads each table once, remembers what the kernel holds, and
// writes only rules that differ, in one run of iptables-restore. It is safe for
// concurrent use.
type Ruleset struct {
	driver Interface
	family inet.Family
	log    *slog.Logger

	mu       sync.Mutex
	sections map[string]Section
	// tables holds the rules of each chain of the kernel's tables. A table
	// that is missing is not known and read before it is next used.
	tables map[Table]map[string][]string
	kept   map[string]bool           // chains of ours that foreign rules keep from going
	used   map[string]map[Table]bool // the tables in which an owner ever wanted something
	// unreadable are tables that could not be read, until the next Resync.
	unreadable map[Table]bool
	said       map[Table]string // why, as it was told

	counting sync.Mutex // of counted; is taken while mu is held, never before
	counted  map[string]map[Table]int
}

// NewRuleset returns a Ruleset without Sections.
func NewRuleset(driver Interface, family inet.Family, log *slog.Logger) *Ruleset {
	return &Ruleset{
		driver: driver, family: family, log: log.With("family", family.String()),
		sections: map[string]Section{}, tables: map[Table]map[string][]string{}, kept: map[string]bool{},
		used: map[string]map[Table]bool{}, unreadable: map[Table]bool{}, said: map[Table]string{}, counted: map[string]map[Table]int{},
	}
}

// Apply replaces what the Section's owner wants and makes the kernel follow,
// each table in one transaction. The Section must not be modified afterwards.
// It returns how many chains and jumps it changed in the kernel; without a
// difference iptables-restore is not run.
//
// A Section without content removes all that the owner has. A chain of the
// owner that rules of others still refer to is emptied and stays. A table that
// cannot be read is an error only where the owner wants something in it, or did.
//
// On error it is not known what the kernel holds; it is read before the next
// attempt.
func (r *Ruleset) Apply(ctx context.Context, s Section) (changed int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(s); err != nil {
		return 0, err
	}
	r.sections[s.Owner] = s
	r.use(s)
	defer r.note(s.Owner)
	fresh := len(r.tables) == 0
	changed, err = r.follow(ctx, []string{s.Owner})
	if err != nil && !fresh && ctx.Err() == nil {
		// Somebody else may have changed what we remembered: the tables were
		// forgotten and are read anew.
		changed, err = r.follow(ctx, []string{s.Owner})
	}
	return changed, err
}

// Resync reads the kernel back and repairs what differs from the owner's
// Section, and the jumps of all owners, whose order is one. It returns how many
// chains and jumps it repaired.
func (r *Ruleset) Resync(ctx context.Context, owner string) (repaired int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.sections[owner]; !known {
		return 0, nil
	}
	clear(r.tables)
	clear(r.unreadable)
	defer r.note(owner)
	return r.follow(ctx, []string{owner})
}

// Counters calls fn with each rule that the kernel holds in a table, of
// whoever, and how many packets it has matched. It keeps nobody waiting.
func (r *Ruleset) Counters(ctx context.Context, table Table, fn func(chain, rule string, packets uint64)) error {
	if err := r.driver.Counters(ctx, table, fn); err != nil {
		return fmt.Errorf("reading the counters of the %s table %s: %w", r.family, table, err)
	}
	return nil
}

// RuleCount returns how many rules of the owner the kernel holds, by table, as
// of the last Apply or Resync: those in its chains and the jumps to them. It
// waits for no program.
func (r *Ruleset) RuleCount(owner string) map[Table]int {
	r.counting.Lock()
	defer r.counting.Unlock()
	return maps.Clone(r.counted[owner])
}

// note counts an owner's rules anew.
func (r *Ruleset) note(owner string) {
	r.counting.Lock()
	defer r.counting.Unlock()
	r.counted[owner] = r.count(owner)
}

func (r *Ruleset) count(owner string) map[Table]int {
	s, count := r.sections[owner], map[Table]int{}
	for table, n := range r.counted[owner] {
		if r.tables[table] == nil { // is read before it is next used
			count[table] = n
		}
	}
	for table, chains := range r.tables {
		for name, rules := range chains {
			if s.owns(name) {
				count[table] += len(rules)
				continue
			}
			if isBuiltin(table, name) {
				for _, rule := range rules {
					if s.owns(target(rule)) {
						count[table]++
					}
				}
			}
		}
	}
	return count
}

// follow makes the kernel follow the owners' Sections.
func (r *Ruleset) follow(ctx context.Context, owners []string) (changed int, err error) {
	var plans []*plan
	var input strings.Builder
	r.loadAll(ctx)
	for _, table := range []Table{Filter, NAT, Mangle} {
		if r.unreadable[table] && !r.uses(table, owners) {
			continue
		}
		if err := r.load(ctx, table); err != nil {
			if ctx.Err() != nil || r.uses(table, owners) {
				return 0, err
			}
			r.pass(table, err)
			continue
		}
		p := r.plan(table, owners)
		if p.changes > 0 {
			plans = append(plans, p)
			p.write(&input)
		}
	}
	if len(plans) == 0 {
		return 0, nil
	}
	if err := r.driver.Restore(ctx, input.String()); err != nil {
		for _, p := range plans {
			delete(r.tables, p.table)
		}
		return 0, fmt.Errorf("programming the %s rules of %s: %w", r.family, strings.Join(owners, ", "), err)
	}
	for _, p := range plans {
		p.commit(r.tables[p.table])
		changed += p.changes
	}
	return changed, nil
}

// use notes the tables in which an owner wants something.
func (r *Ruleset) use(s Section) {
	if r.used[s.Owner] == nil {
		r.used[s.Owner] = map[Table]bool{}
	}
	for table, content := range s.Tables {
		if len(content.Chains)+len(content.Jumps) > 0 {
			r.used[s.Owner][table] = true
		}
	}
}

func (r *Ruleset) uses(table Table, owners []string) bool {
	return slices.ContainsFunc(owners, func(owner string) bool { return r.used[owner][table] })
}

// pass goes on without a table that cannot be read and in which the owners want
// nothing. Only what an earlier run had there would have to go, and rules that
// nftables has put into a table of that name must not keep those of the other
// tables from being written.
func (r *Ruleset) pass(table Table, err error) {
	if why := err.Error(); r.said[table] != why {
		r.said[table] = why
		r.log.Warn("a table is left alone, as it cannot be read and nothing is wanted in it", "table", table, "err", err)
	}
	r.unreadable[table] = true
}

// loadAll reads all tables in one run of iptables-save where none is known:
// starting the program takes longer than the rest. Where that fails, each is
// read by itself, and says why.
func (r *Ruleset) loadAll(ctx context.Context) {
	if len(r.tables)+len(r.unreadable) > 0 {
		return
	}
	text, err := r.driver.Save(ctx, AllTables)
	if err != nil {
		return
	}
	for _, table := range Tables() {
		if err := r.learn(text, table); err != nil {
			return
		}
	}
}

// learn takes note of a table from the text of iptables-save.
func (r *Ruleset) learn(text string, table Table) error {
	parsed, err := Parse(text, table)
	if err != nil {
		return err
	}
	chains := make(map[string][]string, len(parsed))
	for name, chain := range parsed {
		chains[name] = chain.Rules
	}
	r.tables[table] = chains
	return nil
}

// load reads a table that is not known.
func (r *Ruleset) load(ctx context.Context, table Table) error {
	if r.tables[table] != nil {
		return nil
	}
	text, err := r.driver.Save(ctx, table)
	if err != nil {
		return fmt.Errorf("reading the %s table %s: %w", r.family, table, err)
	}
	return r.learn(text, table)
}

// ownerOf is the owner of a chain, or "".
func (r *Ruleset) ownerOf(chain string) string {
	for owner, s := range r.sections {
		if s.owns(chain) {
			return owner
		}
	}
	return ""
}

func (s Section) owns(chain string) bool {
	if s.claims != nil && s.claims(chain) {
		return true
	}
	return slices.ContainsFunc(s.Prefixes, func(p string) bool { return strings.HasPrefix(chain, p) })
}

func isBuiltin(table Table, chain string) bool { return slices.Contains(builtin[table], chain) }

// check refuses a Section that could change what is not its owner's, or that
// no kernel would take.
func (r *Ruleset) check(s Section) error {
	errs := []error{r.checkPrefixes(s)}
	for table, content := range s.Tables {
		if builtin[table] == nil {
			errs = append(errs, fmt.Errorf("table %q is not one of filter, nat, mangle", table))
		}
		for name, rules := range content.Chains {
			errs = append(errs, s.checkChain(table, name))
			for _, rule := range rules {
				errs = append(errs, s.checkRule(content, rule))
			}
		}
		for _, j := range content.Jumps {
			if !isBuiltin(table, j.Chain) {
				errs = append(errs, fmt.Errorf("jump in %q, which is not a built-in chain of table %s", j.Chain, table))
			}
			if !s.owns(target(j.Rule)) {
				errs = append(errs, fmt.Errorf("jump %q does not lead to a chain of its owner", j.Rule))
			}
			errs = append(errs, s.checkRule(content, j.Rule))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s rules of %s: %w", r.family, s.Owner, err)
	}
	return nil
}

func (r *Ruleset) checkPrefixes(s Section) error {
	if s.Owner == "" || len(s.Prefixes) == 0 || slices.Contains(s.Prefixes, "") {
		return errors.New("a Section needs an Owner and non-empty Prefixes")
	}
	for _, other := range r.sections {
		if other.Owner == s.Owner {
			continue
		}
		for _, p := range s.Prefixes {
			for _, q := range other.Prefixes {
				if strings.HasPrefix(p, q) || strings.HasPrefix(q, p) {
					return fmt.Errorf("prefix %q and prefix %q of %s own the same chains", p, q, other.Owner)
				}
			}
		}
	}
	return nil
}

func (s Section) checkChain(table Table, name string) error {
	switch {
	case isBuiltin(table, name) || !s.owns(name):
		return fmt.Errorf("chain %q begins with none of the owner's prefixes %q", name, s.Prefixes)
	case len(name) > maxChainLen:
		return fmt.Errorf("chain %q has %d bytes, the kernel takes at most %d", name, len(name), maxChainLen)
	case strings.ContainsAny(name, " \t\n\"\\") || strings.HasPrefix(name, "-") || strings.HasPrefix(name, "!"):
		return fmt.Errorf("chain name %q holds a character that iptables does not take", name)
	}
	return nil
}

func (s Section) checkRule(content Content, rule string) error {
	if strings.ContainsAny(rule, "\n\r\x00") {
		return fmt.Errorf("rule %q holds a line break or a zero byte", rule)
	}
	if to := target(rule); s.owns(to) {
		if _, ok := content.Chains[to]; !ok {
			return fmt.Errorf("rule %q leads to chain %s, which the Section lacks", rule, to)
		}
	}
	return nil
}
