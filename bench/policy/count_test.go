package main

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

func TestRulesAreCountedOneByOne(t *testing.T) {
	before := map[string][]string{"filter A": {"one", "two", "two", "three"}, "filter B": {"-j A"}}
	for _, test := range []struct {
		name, input      string
		rules, unchanged int
		chain            []string // A afterwards
	}{
		{"a chain rewritten with one rule changed", ":A - [0:0]\n-A A one\n-A A two\n-A A 2\n-A A three", 4, 3, []string{"one", "two", "2", "three"}},
		{"a rule that is written more often than before", ":A - [0:0]\n-A A one\n-A A one", 2, 1, []string{"one", "one"}},
		{"a chain of the same name in another table", "COMMIT\n*nat\n:A - [0:0]\n-A A one", 1, 0, before["filter A"]},
		{"a new chain", ":C - [0:0]\n-A C one", 1, 0, before["filter A"]},
		{"a chain deleted", ":A - [0:0]\n-X A", 0, 0, nil},
		{"a rule replaced", "-R A 2 new", 1, 0, []string{"one", "new", "two", "three"}},
		{"a rule replaced by itself", "-R A 2 two", 1, 1, before["filter A"]},
		{"a rule inserted, at the head and at the end", "-I A zero\n-I A 6 end", 2, 0, []string{"zero", "one", "two", "two", "three", "end"}},
		{"a rule deleted by number and by its text", "-D A 4\n-D A one", 2, 0, []string{"two", "two"}},
		{"what the kernel refuses", "-D A nothing\n-R A 9 new", 2, 0, before["filter A"]},
	} {
		chains := map[string][]string{}
		for name, rules := range before {
			chains[name] = slices.Clone(rules)
		}
		o := follow(chains, "*filter\n"+test.input+"\nCOMMIT\n")
		if o.Rules != test.rules || o.Unchanged != test.unchanged {
			t.Errorf("%s: %d rules, %d of them unchanged, want %d and %d", test.name, o.Rules, o.Unchanged, test.rules, test.unchanged)
		}
		if !slices.Equal(chains["filter A"], test.chain) {
			t.Errorf("%s: the chain is %q, want %q", test.name, chains["filter A"], test.chain)
		}
	}
}

func TestDriversAreCounted(t *testing.T) {
	c := &counter{}
	sets := countedSets{ipset.NewFake(), c}
	sets.Apply([]ipset.Change{{Op: ipset.Create, Name: "s", Spec: ipset.Spec{Type: ipset.HashIP, Family: 4}}, {Op: ipset.Destroy, Name: "s"}})
	rules := &countedRules{Interface: iptables.NewFake(), counter: c, chains: map[string][]string{}}
	for range 2 {
		if err := rules.Restore(context.Background(), "*filter\n:C - [0:0]\n-A C -j RETURN\nCOMMIT\n"); err != nil {
			t.Fatal(err)
		}
	}
	o := c.now()
	if o.Restoring <= 0 {
		t.Error("no time was noted")
	}
	o.Restoring = 0
	if want := (operations{Sets: 2, Rules: 2, Unchanged: 1, Restores: 2}); o != want {
		t.Errorf("got %+v, want %+v", o, want)
	}
	if !maps.EqualFunc(rules.chains, map[string][]string{"filter C": {"-j RETURN"}}, slices.Equal) {
		t.Errorf("chains are %q", rules.chains)
	}
}
