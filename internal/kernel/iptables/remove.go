package iptables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// Variants are those in which this host may have rules of a family. To ask makes
// no table. A variant whose programs are missing, or that this kernel does not
// have, is none; not to be allowed to look is an error.
func Variants(ctx context.Context, family inet.Family) ([]Variant, error) {
	return newHost().variants(ctx, family, loadedTables(family))
}

func (h host) variants(ctx context.Context, family inet.Family, loaded string) (found []Variant, err error) {
	names, legacyErr := os.ReadFile(loaded)
	if len(names) > 0 {
		found = append(found, Legacy)
	}
	path, nftErr := h.tool(ctx, family, NFT, "save")
	if nftErr == nil {
		if _, nftErr = h.ask(ctx, "", path, "-t", string(Filter)); nftErr == nil {
			found = append(found, NFT)
		}
	}
	if errors.Is(nftErr, ErrHangs) {
		err = nftErr
	}
	var failed *toolError
	if errors.As(nftErr, &failed) && (strings.Contains(failed.message, "Permission denied") || strings.Contains(failed.message, "must be root")) {
		err = fmt.Errorf("run it as root, in a privileged container: %w", nftErr)
	}
	if errors.Is(legacyErr, fs.ErrPermission) {
		err = errors.Join(err, fmt.Errorf("run it as root, in a privileged container: %w", legacyErr))
	}
	return found, errors.Join(err, ctx.Err())
}

// Tables are those in which a Ruleset may have rules.
func Tables() []Table { return []Table{Filter, NAT, Mangle} }

// removeTries is how often a removal is tried that others' changes of the table
// came between.
const removeTries = 3

// Remove removes the chains of a table whose names begin with one of the
// prefixes, and the rules of built-in chains that lead to them, in one
// transaction. It returns what is gone: "chain NAME", "rule -A CHAIN RULE".
//
// A chain that a rule of somebody else's chain leads to is emptied and stays,
// which is an error that names that chain. On other errors nothing has changed.
func Remove(ctx context.Context, driver Interface, table Table, prefixes []string) (removed []string, err error) {
	return Removal{Owns: Section{Prefixes: prefixes}.owns}.Run(ctx, driver, table)
}

// Removal is what is to go from a table.
type Removal struct {
	// Owns says which chains go, with the rules of built-in chains that lead to
	// them.
	Owns func(chain string) bool
	// Rule says which other rules of built-in chains go; nil is none of them.
	Rule func(chain, rule string) bool
	// Dry changes nothing.
	Dry bool
}

// Run is Remove, of these chains and rules. With Dry it returns what would go.
func (m Removal) Run(ctx context.Context, driver Interface, table Table) (removed []string, err error) {
	s := Section{Owner: "removal", claims: m.Owns}
	for range removeTries {
		r := NewRuleset(driver, inet.IPv4, slog.New(slog.DiscardHandler)) // the family is for its log alone
		r.sections[s.Owner] = s
		if err := r.load(ctx, table); err != nil {
			return nil, err
		}
		p := r.plan(table, []string{s.Owner})
		m.addRules(p, r.tables[table])
		referred := r.referredTo(table, s)
		if p.changes == 0 || m.Dry {
			return p.removed(), referred
		}
		var input strings.Builder
		p.write(&input)
		if err = driver.Restore(ctx, input.String()); err == nil {
			return p.removed(), referred
		}
	}
	return nil, err
}

// addRules plans the rules of built-in chains that lead to no chain that goes.
func (m Removal) addRules(p *plan, have map[string][]string) {
	if m.Rule == nil {
		return
	}
	for _, chain := range builtin[p.table] {
		for _, rule := range have[chain] {
			if to := target(rule); m.Rule(chain, rule) && !m.Owns(to) {
				p.jumps = append(p.jumps, fmt.Sprintf("-D %s %s", chain, rule))
				p.changes++
			}
		}
	}
}

// Referrers are the chains that owns claims and that rules of other chains lead
// to, but for those of built-in chains: each with such a chain.
func Referrers(ctx context.Context, driver Interface, table Table, owns func(chain string) bool) (map[string]string, error) {
	r := NewRuleset(driver, inet.IPv4, slog.New(slog.DiscardHandler))
	if err := r.load(ctx, table); err != nil {
		return nil, err
	}
	owned := map[string]bool{}
	for name := range r.tables[table] {
		owned[name] = owns(name)
	}
	return r.foreignReferences(table, Section{claims: owns}, owned), nil
}

// referredTo says which chains of the owner cannot go.
func (r *Ruleset) referredTo(table Table, s Section) error {
	owned := map[string]bool{}
	for name := range r.tables[table] {
		if s.owns(name) {
			owned[name] = true
		}
	}
	var errs []error
	referred := r.foreignReferences(table, s, owned)
	for _, name := range slices.Sorted(maps.Keys(referred)) {
		errs = append(errs, fmt.Errorf("chain %s stays, empty, because a rule of chain %s leads to it: remove that rule", name, referred[name]))
	}
	return errors.Join(errs...)
}

// removed is what the plan takes away.
func (p *plan) removed() []string {
	var list []string
	for _, command := range p.jumps {
		list = append(list, "rule "+strings.Replace(command, "-D ", "-A ", 1))
	}
	for _, chain := range p.remove {
		list = append(list, "chain "+chain)
	}
	return list
}
