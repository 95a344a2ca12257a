package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kube-router/kube-router/internal/inet"
)

func newRuleset(d Interface) *Ruleset {
	return NewRuleset(d, inet.IPv4, slog.New(slog.DiscardHandler))
}

// unreadable is iptables on a host with a table that only nftables can read.
type unreadable struct {
	counting
	table Table
}

func (u *unreadable) Save(ctx context.Context, table Table) (string, error) {
	if table == u.table || table == AllTables {
		u.saves++
		return "", errors.New("Parsing nftables rule failed")
	}
	return u.counting.Save(ctx, table)
}

// A table that cannot be read is nothing to those who want nothing in it. It is
// tried again with each resync, not with each change.
func TestUnreadableTable(t *testing.T) {
	fake := NewFake()
	d := &unreadable{counting{Interface: fake}, NAT}
	r := newRuleset(d)
	ctx := t.Context()
	for i, rule := range []string{"-j ACCEPT", "-j DROP"} {
		if _, err := r.Apply(ctx, policy(rule)); err != nil {
			t.Fatal(err)
		}
		if d.saves != 4 || d.restores != i+1 || !strings.Contains(fake.Text(Filter), rule) {
			t.Errorf("%d reads, %d writes, and the kernel holds\n%s", d.saves, d.restores, fake.Text(Filter))
		}
	}
	if err := fake.Foreign("*filter\n-F KUBE-ROUTER-FORWARD\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Resync(ctx, "policy"); n != 1 || err != nil {
		t.Errorf("%d repairs, %v", n, err)
	}
	nat := Section{Owner: "nat", Prefixes: []string{"KUBE-ROUTER-EGRESS"}, Tables: map[Table]Content{NAT: {Chains: map[string][]string{"KUBE-ROUTER-EGRESS": {"-j RETURN"}}}}}
	if _, err := r.Apply(ctx, nat); err == nil || !strings.Contains(err.Error(), "table nat") {
		t.Errorf("wants something there: %v", err)
	}
	nat.Tables = nil
	if _, err := r.Apply(ctx, nat); err == nil {
		t.Error("what it had there may be there still, and that is no error")
	}
	d.table = ""
	if _, err := r.Apply(ctx, nat); err != nil {
		t.Error(err)
	}
}

func TestSectionThatIsRefusedChangesNothing(t *testing.T) {
	with := func(change func(s *Section)) Section {
		s := policy("-j ACCEPT")
		change(&s)
		return s
	}
	chain := func(name string, rules ...string) Section {
		return with(func(s *Section) { s.Tables[Filter].Chains[name] = rules })
	}
	for _, c := range []struct {
		s    Section
		want string
	}{
		{Section{Prefixes: []string{"A"}}, "needs an Owner"},
		{Section{Owner: "a", Prefixes: []string{""}}, "non-empty Prefixes"},
		{Section{Owner: "a", Prefixes: []string{"KUBE-ROUTER-SERVICES-X"}}, "own the same chains"},
		{chain("FORWARD"), "none of the owner's prefixes"},
		{chain("OTHER"), "none of the owner's prefixes"},
		{chain("KUBE-POD-FW-" + strings.Repeat("X", 17)), "at most 28"},
		{chain("KUBE-POD-FW-A B"), "does not take"},
		{chain("KUBE-POD-FW-A", "-j ACCEPT\n-F INPUT"), "line break"},
		{chain("KUBE-POD-FW-A", "-j KUBE-POD-FW-B"), "which the Section lacks"},
		{with(func(s *Section) { s.Tables["raw"] = Content{} }), `table "raw"`},
		{with(func(s *Section) {
			s.Tables[Filter] = Content{Jumps: []Jump{{"FORWARD", 1, "-j KUBE-POD-FW-A"}}}
		}), "which the Section lacks"},
		{with(func(s *Section) {
			s.Tables[NAT] = Content{Jumps: []Jump{{"FORWARD", 1, "-j KUBE-POD-FW-A"}}}
		}), "not a built-in chain"},
		{with(func(s *Section) {
			s.Tables[NAT] = Content{Jumps: []Jump{{"OUTPUT", 1, "-j ACCEPT"}}}
		}), "does not lead to a chain"},
	} {
		f := NewFake()
		r := newRuleset(f)
		if _, err := r.Apply(t.Context(), services("-j RETURN")); err != nil {
			t.Fatal(err)
		}
		before := f.Text(Filter)
		if _, err := r.Apply(t.Context(), c.s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", c.s, err, c.want)
		}
		if diff := cmp.Diff(before, f.Text(Filter)); diff != "" {
			t.Errorf("%+v changed the table:\n%s", c.s, diff)
		}
	}
}

// An owner whose rules are refused does not keep others from theirs.
func TestFailureIsOfOneOwner(t *testing.T) {
	f := NewFake()
	f.SetExists = func(string) bool { return false }
	r := newRuleset(f)
	bad := policy("-m set --match-set KUBE-DST src -j ACCEPT")
	if _, err := r.Apply(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "KUBE-DST") {
		t.Errorf("error %v, want one that names the set", err)
	}
	if _, err := r.Apply(t.Context(), services("-j RETURN")); err != nil {
		t.Error(err)
	}
	f.SetExists = nil
	if _, err := r.Apply(t.Context(), bad); err != nil {
		t.Error(err)
	}
	want := strings.Replace(filterTable(bothOwners), "-A KUBE-POD-FW-A -j", "-A KUBE-POD-FW-A -m set --match-set KUBE-DST src -j", 1)
	if diff := cmp.Diff(want, f.Text(Filter)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFailedRestoreIsReadBeforeTheNext(t *testing.T) {
	f := NewFake()
	r := newRuleset(f)
	f.Fail = func(string) error { return errors.New("no memory") }
	if _, err := r.Apply(t.Context(), policy("-j ACCEPT")); err == nil {
		t.Error("no error")
	}
	f.Fail = nil
	saves, _ := f.Calls()
	if _, err := r.Apply(t.Context(), policy("-j ACCEPT")); err != nil {
		t.Error(err)
	}
	if again, _ := f.Calls(); again == saves {
		t.Error("the table was not read again")
	}
}

func TestApplyHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newRuleset(NewFake()).Apply(ctx, policy("-j ACCEPT")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestTransactionText shows what iptables-restore is given: a new chain as
// a whole, the chains that go emptied first and deleted last.
func TestTransactionText(t *testing.T) {
	f := NewFake()
	r := newRuleset(f)
	if err := f.Foreign("*filter\n:KUBE-POD-FW-OLD - [0:0]\n-A KUBE-POD-FW-OLD -j DROP\n-A FORWARD -i x -j KUBE-POD-FW-OLD\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Apply(t.Context(), policy("-j ACCEPT", "-j DROP")); err != nil {
		t.Fatal(err)
	}
	want := `*filter
:KUBE-POD-FW-A - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-POD-FW-OLD - [0:0]
-A KUBE-POD-FW-A -j ACCEPT
-A KUBE-POD-FW-A -j DROP
-A KUBE-ROUTER-FORWARD -i kube-bridge -j KUBE-POD-FW-A
-D FORWARD -i x -j KUBE-POD-FW-OLD
-I FORWARD 1 -j KUBE-ROUTER-FORWARD
-X KUBE-POD-FW-OLD
COMMIT
`
	if diff := cmp.Diff(want, f.LastInput()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestEditText shows what iptables-restore is given for a chain that is there:
// what changed, from the end to the head.
func TestEditText(t *testing.T) {
	a, b, c, d := "-j A", "-j B", "-j C", "-j D"
	for _, test := range []struct {
		old, want []string
		text      string
	}{
		{[]string{a, b, c}, []string{a, d, c}, "-I X 2 -j D\n-D X -j B"},
		{[]string{a, b, c}, []string{a, c}, "-D X -j B"},
		{[]string{a, c}, []string{a, b, c}, "-I X 2 -j B"},
		{[]string{a}, []string{a, b, c}, "-I X 2 -j C\n-I X 2 -j B"},
		{[]string{a, b}, []string{c, d}, "-I X 2 -j D\n-D X -j B\n-I X 1 -j C\n-D X -j A"},
		{[]string{a, a, b}, []string{a, a, c}, "-I X 3 -j C\n-D X -j B"},
		// What the text does not tell apart is rewritten.
		{[]string{a, b, a, c}, []string{a, b, c}, ":X - [0:0]\n-A X -j A\n-A X -j B\n-A X -j C"},
		{[]string{a, b, c, d}, []string{d, a, b, c}, ":X - [0:0]\n-A X -j D\n-A X -j A\n-A X -j B\n-A X -j C"},
	} {
		p := &plan{table: Filter, chains: map[string][]string{}}
		p.change("X", test.old, test.want)
		var text strings.Builder
		p.write(&text)
		got := strings.TrimSuffix(strings.TrimPrefix(text.String(), "*filter\n"), "\nCOMMIT\n")
		if diff := cmp.Diff(test.text, got); diff != "" {
			t.Errorf("%q to %q: -want +got:\n%s", test.old, test.want, diff)
		}
	}
}

// TestAnyHistoryConverges applies random Sections of two owners while rules of
// others come and go and runs fail: at the end the owners' chains are as last
// applied and the foreign rules are as they were made.
func TestAnyHistoryConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := NewFake()
		r := newRuleset(f)
		last := map[string]Section{"policy": nothing(policy()), "services": nothing(services())}
		for _, s := range last { // what others do to unknown owners' chains is not ours to repair
			if _, err := r.Apply(t.Context(), s); err != nil {
				rt.Fatal(err)
			}
		}
		f.Fail = func(string) error {
			if rapid.IntRange(0, 4).Draw(rt, "fails") == 0 {
				return errors.New("no memory")
			}
			return nil
		}
		for i := range rapid.IntRange(1, 10).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0:
				last["policy"] = drawSection(rt, policy(), Filter, "KUBE-POD-FW-")
				_, _ = r.Apply(t.Context(), last["policy"])
			case 1:
				last["services"] = drawSection(rt, services(), Filter, "KUBE-ROUTER-SERVICES")
				_, _ = r.Apply(t.Context(), last["services"])
			case 2:
				meddle(rt, f, i)
			case 3:
				_, _ = r.Resync(t.Context(), rapid.SampledFrom([]string{"policy", "services"}).Draw(rt, "owner"))
			}
		}
		f.Fail = nil
		foreign := foreignRules(f)
		for owner := range last {
			if _, err := r.Resync(t.Context(), owner); err != nil {
				rt.Fatal(err)
			}
		}
		for _, s := range last {
			if n, err := r.Apply(t.Context(), s); n != 0 || err != nil {
				rt.Fatalf("Apply after Resync: %d changes, %v", n, err)
			}
		}
		fresh := NewFake()
		anew := newRuleset(fresh)
		for _, s := range last {
			if _, err := anew.Apply(t.Context(), s); err != nil {
				rt.Fatal(err)
			}
		}
		if diff := cmp.Diff(ownChains(fresh), ownChains(f)); diff != "" {
			rt.Fatalf("-want +got:\n%s", diff)
		}
		if diff := cmp.Diff(foreign, foreignRules(f)); diff != "" {
			rt.Fatalf("rules of others changed:\n%s", diff)
		}
	})
}

func drawSection(rt *rapid.T, base Section, table Table, prefix string) Section {
	s := nothing(base)
	content := Content{Chains: map[string][]string{}}
	n := rapid.IntRange(0, 4).Draw(rt, "chains")
	for i := range n {
		rules := []string{"-j RETURN", "-j ACCEPT"}[:rapid.IntRange(0, 2).Draw(rt, "rules")]
		if i > 0 && rapid.Bool().Draw(rt, "nested") {
			rules = append([]string{fmt.Sprintf("-j %s%d", prefix, i-1)}, rules...)
		}
		content.Chains[fmt.Sprintf("%s%d", prefix, i)] = rules
	}
	for range rapid.IntRange(0, 3).Draw(rt, "jumps") {
		if n > 0 {
			content.Jumps = append(content.Jumps, Jump{
				Chain: rapid.SampledFrom(builtin[table]).Draw(rt, "from"), Rank: rapid.IntRange(1, 3).Draw(rt, "rank"),
				Rule: fmt.Sprintf("-j %s%d", prefix, rapid.IntRange(0, n-1).Draw(rt, "to")),
			})
		}
	}
	s.Tables = map[Table]Content{table: content}
	return s
}

// meddle does what others do: rules before ours, and ours emptied.
func meddle(rt *rapid.T, f *Fake, i int) {
	chain := rapid.SampledFrom(builtin[Filter]).Draw(rt, "chain")
	input := fmt.Sprintf("*filter\n-I %s 1 -i foreign%d -j ACCEPT\nCOMMIT\n", chain, i)
	if rapid.Bool().Draw(rt, "empty one") {
		input = "*filter\n:KUBE-POD-FW-0 - [0:0]\n-A KUBE-POD-FW-0 -j DROP\n-A " + chain + " -j KUBE-POD-FW-0\nCOMMIT\n"
	}
	if err := f.Foreign(input); err != nil {
		rt.Fatal(err)
	}
}

func parsed(f *Fake) map[string]Chain {
	chains, err := Parse(f.Text(Filter), Filter)
	if err != nil {
		panic(err)
	}
	return chains
}

func foreignRules(f *Fake) map[string][]string {
	rules := map[string][]string{}
	for name, chain := range parsed(f) {
		for _, rule := range chain.Rules {
			if isBuiltin(Filter, name) && strings.Contains(rule, "foreign") {
				rules[name] = append(rules[name], rule)
			}
		}
	}
	return rules
}

// ownChains are the owners' chains, and the jumps at the head of each built-in
// chain in order.
func ownChains(f *Fake) map[string][]string {
	own := map[string][]string{}
	for name, chain := range parsed(f) {
		rules := chain.Rules
		if isBuiltin(Filter, name) {
			rules = nil
			for i, rule := range chain.Rules {
				if !strings.Contains(rule, "foreign") {
					rules = append(rules, fmt.Sprintf("%d %s", i, rule))
				}
			}
		}
		own[name] = append([]string{}, rules...)
	}
	return own
}
