package iptables

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// Fake is iptables of one address family in an imaginary network namespace. It
// understands what iptables-restore --noflush is given by a Ruleset, applies
// each table as a whole or not at all, and refuses what the kernel refuses. It
// is safe for concurrent use.
type Fake struct {
	// SetExists, when not nil, says whether an IP set exists: a rule that
	// matches one that does not is refused.
	SetExists func(name string) bool
	// Fail, when not nil, is asked before each Restore and its error returned
	// in place of applying the input.
	Fail func(input string) error
	// Packets, when not nil, says how many packets a rule has matched.
	Packets func(chain, rule string) uint64

	mu       sync.Mutex
	tables   map[Table]map[string]Chain
	saves    int
	restores int
	last     string
}

// NewFake returns a Fake with the built-in chains, all empty and accepting.
func NewFake() *Fake {
	f := &Fake{tables: map[Table]map[string]Chain{}}
	for table, chains := range builtin {
		f.tables[table] = map[string]Chain{}
		for _, name := range chains {
			f.tables[table][name] = Chain{Policy: "ACCEPT"}
		}
	}
	return f
}

// builtin are the chains that the kernel has in each table.
var builtin = map[Table][]string{
	Filter: {"INPUT", "FORWARD", "OUTPUT"},
	NAT:    {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	Mangle: {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
}

// extensions are the targets that are not chains.
var extensions = []string{
	"ACCEPT", "DROP", "RETURN", "REJECT", "NFLOG", "LOG", "MARK", "CONNMARK", "MASQUERADE",
	"SNAT", "DNAT", "REDIRECT", "TCPMSS", "CT", "NOTRACK", "TPROXY", "NFQUEUE", "NETMAP", "SET",
}

// Save implements Interface.
func (f *Fake) Save(ctx context.Context, table Table) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.saves++
	if table == AllTables {
		var all strings.Builder
		for _, table := range Tables() {
			all.WriteString(render(table, f.tables[table]))
		}
		return all.String(), nil
	}
	chains, ok := f.tables[table]
	if !ok {
		return "", fmt.Errorf("iptables-save: table %q does not exist", table)
	}
	return render(table, chains), nil
}

// Counters implements Interface.
func (f *Fake) Counters(ctx context.Context, table Table, fn func(chain, rule string, packets uint64)) error {
	text, err := f.Save(ctx, table)
	if err != nil {
		return err
	}
	return parseCounters(text, table, func(chain, rule string, packets uint64) {
		if f.Packets != nil {
			packets = f.Packets(chain, rule)
		}
		fn(chain, rule, packets)
	})
}

// Restore implements Interface.
func (f *Fake) Restore(ctx context.Context, input string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restores++
	f.last = input
	if f.Fail != nil {
		if err := f.Fail(input); err != nil {
			return err
		}
	}
	return f.restore(input)
}

// Foreign applies input as somebody else would: as Restore does, but without
// counting or failing it.
func (f *Fake) Foreign(input string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.restore(input)
}

// Calls returns how often Save and Restore were called.
func (f *Fake) Calls() (saves, restores int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.saves, f.restores
}

// LastInput returns the input of the last Restore.
func (f *Fake) LastInput() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Text returns a table as Save prints it, without counting a read.
func (f *Fake) Text(table Table) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return render(table, f.tables[table])
}

// UsesSet says whether a rule matches the IP set: what the kernel counts as
// references of a set.
func (f *Fake) UsesSet(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, chains := range f.tables {
		for _, chain := range chains {
			for _, rule := range chain.Rules {
				if slices.Contains(setsOf(rule), name) {
					return true
				}
			}
		}
	}
	return false
}

// render writes a table as iptables-save does: built-in chains in the order of
// the hooks, others by name.
func render(table Table, chains map[string]Chain) string {
	names := slices.Clone(builtin[table])
	var own []string
	for name := range chains {
		if !slices.Contains(names, name) {
			own = append(own, name)
		}
	}
	sort.Strings(own)
	names = append(names, own...)
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	for _, name := range names {
		fmt.Fprintf(&b, ":%s %s [0:0]\n", name, chains[name].Policy)
	}
	for _, name := range names {
		for _, rule := range chains[name].Rules {
			b.WriteString(strings.TrimSuffix("-A "+name+" "+rule, " ") + "\n")
		}
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// transaction is a table while it is being restored. Chains are replaced, not
// changed, so that a shallow copy is enough to fall back on.
type transaction struct {
	fake   *Fake
	table  Table
	chains map[string]Chain
}

func (f *Fake) restore(input string) error {
	var tx *transaction
	for number, line := range strings.Split(input, "\n") {
		line = strings.TrimSpace(line)
		var err error
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '*':
			tx, err = f.begin(Table(line[1:]))
		case tx == nil:
			err = fmt.Errorf("outside of a table")
		case line == "COMMIT":
			f.tables[tx.table], tx = tx.chains, nil
		default:
			err = tx.line(line)
		}
		if err != nil {
			return fmt.Errorf("iptables-restore: line %d (%s): %w", number+1, line, err)
		}
	}
	if tx != nil {
		return fmt.Errorf("iptables-restore: COMMIT expected at the end of the input")
	}
	return nil
}

func (f *Fake) begin(table Table) (*transaction, error) {
	chains, ok := f.tables[table]
	if !ok {
		return nil, fmt.Errorf("table %q does not exist", table)
	}
	return &transaction{f, table, maps.Clone(chains)}, nil
}

func (tx *transaction) line(line string) error {
	if rest, ok := strings.CutPrefix(line, ":"); ok {
		return tx.declare(rest)
	}
	op, rest, _ := strings.Cut(line, " ")
	name, rule, _ := strings.Cut(rest, " ")
	if op == "-N" {
		if _, ok := tx.chains[name]; ok {
			return fmt.Errorf("chain %s already exists", name)
		}
		return tx.declare(name + " -")
	}
	chain, ok := tx.chains[name]
	if !ok {
		return fmt.Errorf("no chain named %q", name)
	}
	switch op {
	case "-A":
		return tx.insert(name, len(chain.Rules), rule)
	case "-I":
		at, rule := position(rule)
		return tx.insert(name, at, rule)
	case "-D":
		return tx.remove(name, rule)
	case "-F":
		tx.chains[name] = Chain{Policy: chain.Policy}
		return nil
	case "-X":
		return tx.drop(name)
	}
	return fmt.Errorf("unknown command %q", op)
}

// declare creates a chain, or empties it, as --noflush does for a chain that
// is named; of a built-in one it sets the policy.
func (tx *transaction) declare(rest string) error {
	fields := strings.Fields(rest)
	if len(fields) < 2 || len(fields[0]) > maxChainLen {
		return fmt.Errorf("bad chain declaration %q", rest)
	}
	name, policy := fields[0], fields[1]
	if slices.Contains(builtin[tx.table], name) {
		chain := tx.chains[name]
		chain.Policy = policy
		tx.chains[name] = chain
		return nil
	}
	if policy != "-" {
		return fmt.Errorf("chain %s is not built in and has no policy", name)
	}
	tx.chains[name] = Chain{Policy: "-"}
	return nil
}

// position takes the rule number off the arguments of -I; without one it is 1.
func position(args string) (at int, rule string) {
	first, rest, _ := strings.Cut(args, " ")
	if n, err := strconv.Atoi(first); err == nil {
		return n - 1, rest
	}
	return 0, args
}

func (tx *transaction) insert(name string, at int, rule string) error {
	chain := tx.chains[name]
	if at < 0 || at > len(chain.Rules) {
		return fmt.Errorf("index of insertion %d is too big", at+1)
	}
	if to := target(rule); to != "" && !slices.Contains(extensions, to) {
		if c, ok := tx.chains[to]; !ok || c.Policy != "-" {
			return fmt.Errorf("no chain or target named %q", to)
		}
	}
	for _, set := range setsOf(rule) {
		if tx.fake.SetExists != nil && !tx.fake.SetExists(set) {
			return fmt.Errorf("set %s doesn't exist", set)
		}
	}
	chain.Rules = slices.Insert(slices.Clone(chain.Rules), at, rule)
	tx.chains[name] = chain
	return nil
}

// remove deletes the rule of that number, or the first that is the same.
func (tx *transaction) remove(name, rule string) error {
	chain := tx.chains[name]
	at := slices.IndexFunc(chain.Rules, func(r string) bool { return same(r, rule) })
	if n, err := strconv.Atoi(rule); err == nil {
		at = n - 1
	}
	if at < 0 || at >= len(chain.Rules) {
		return fmt.Errorf("bad rule (does a matching rule exist in that chain?)")
	}
	chain.Rules = slices.Delete(slices.Clone(chain.Rules), at, at+1)
	tx.chains[name] = chain
	return nil
}

func (tx *transaction) drop(name string) error {
	chain := tx.chains[name]
	if chain.Policy != "-" {
		return fmt.Errorf("chain %s is built in", name)
	}
	if len(chain.Rules) > 0 {
		return fmt.Errorf("chain %s is not empty", name)
	}
	for from, c := range tx.chains {
		if slices.ContainsFunc(c.Rules, func(r string) bool { return target(r) == name }) {
			return fmt.Errorf("chain %s is in use: chain %s refers to it", name, from)
		}
	}
	delete(tx.chains, name)
	return nil
}

// setsOf are the IP sets that a rule names.
func setsOf(rule string) []string {
	if !strings.Contains(rule, "-set ") {
		return nil
	}
	var sets []string
	w := words(rule)
	for i := 0; i+1 < len(w); i++ {
		if w[i] == "--match-set" || w[i] == "--map-set" {
			sets = append(sets, w[i+1])
		}
	}
	return sets
}
