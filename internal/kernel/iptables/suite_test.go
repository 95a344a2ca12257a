package iptables

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
)

// counting counts the calls that reach a driver.
type counting struct {
	Interface
	saves, restores int
}

func (c *counting) Save(ctx context.Context, table Table) (string, error) {
	c.saves++
	return c.Interface.Save(ctx, table)
}

func (c *counting) Restore(ctx context.Context, input string) error {
	c.restores++
	return c.Interface.Restore(ctx, input)
}

// tableText is a table in the order that Fake prints it in, with the built-in
// chains that a kernel does not have yet.
func tableText(t *testing.T, d Interface, table Table) string {
	t.Helper()
	text, err := d.Save(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	chains, err := Parse(text, table)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range builtin[table] {
		if _, ok := chains[name]; !ok {
			chains[name] = Chain{Policy: "ACCEPT"}
		}
	}
	return render(table, chains)
}

func expectTable(t *testing.T, d Interface, table Table, want string) {
	t.Helper()
	if diff := cmp.Diff(want, tableText(t, d, table)); diff != "" {
		t.Errorf("table %s (-want +got):\n%s", table, diff)
	}
}

// filterTable is the text of the filter table with these lines after the
// declarations of the built-in chains.
func filterTable(lines string) string {
	return "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n" + lines + "COMMIT\n"
}

var driverCases = []struct {
	name   string
	inputs []string // all but the last are taken
	refuse string   // part of the error of the last; "" where it is taken
	want   string   // the filter table at the end
}{
	{name: "declared, filled and jumped to", inputs: []string{
		"*filter\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -p tcp -m tcp --dport 80 -j ACCEPT\n-I FORWARD 1 -j A\nCOMMIT\n",
	}, want: ":A - [0:0]\n:B - [0:0]\n-A FORWARD -j A\n-A A -j B\n-A B -p tcp -m tcp --dport 80 -j ACCEPT\n"},
	{name: "declaring empties, others stay", inputs: []string{
		"*filter\n:A - [0:0]\n:B - [0:0]\n-A A -j DROP\n-A B -j DROP\nCOMMIT\n",
		"*filter\n:A - [0:0]\n-A A -j ACCEPT\nCOMMIT\n",
	}, want: ":A - [0:0]\n:B - [0:0]\n-A A -j ACCEPT\n-A B -j DROP\n"},
	{name: "inserted at a place, also behind the last rule", inputs: []string{
		"*filter\n-I FORWARD 1 -j DROP\n-I FORWARD 2 -j ACCEPT\n-I FORWARD 2 -j RETURN\n-I FORWARD -i lo -j ACCEPT\nCOMMIT\n",
	}, want: "-A FORWARD -i lo -j ACCEPT\n-A FORWARD -j DROP\n-A FORWARD -j RETURN\n-A FORWARD -j ACCEPT\n"},
	{name: "deleting takes the first of two", inputs: []string{
		"*filter\n-A FORWARD -j DROP\n-A FORWARD -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n",
		"*filter\n-D FORWARD -j DROP\nCOMMIT\n",
	}, want: "-A FORWARD -j ACCEPT\n-A FORWARD -j DROP\n"},
	{name: "emptied and deleted, in a circle of references", inputs: []string{
		"*filter\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A FORWARD -j A\nCOMMIT\n",
		"*filter\n:A - [0:0]\n:B - [0:0]\n-D FORWARD -j A\n-X A\n-X B\nCOMMIT\n",
	}, want: ""},
	{name: "a rule that leads nowhere", inputs: []string{
		"*filter\n:A - [0:0]\n-A A -j NOWHERE\nCOMMIT\n",
	}, refuse: "NOWHERE", want: ""},
	{name: "a rule of a chain that is not there", inputs: []string{
		"*filter\n-A NOWHERE -j DROP\nCOMMIT\n",
	}, refuse: "-A NOWHERE -j DROP", want: ""},
	{name: "deleting a chain that a rule leads to", inputs: []string{
		"*filter\n:A - [0:0]\n-A FORWARD -j A\nCOMMIT\n",
		"*filter\n:B - [0:0]\n-X A\nCOMMIT\n",
	}, refuse: "line", want: ":A - [0:0]\n-A FORWARD -j A\n"},
	{name: "deleting a chain with rules", inputs: []string{
		"*filter\n:A - [0:0]\n-A A -j DROP\nCOMMIT\n",
		"*filter\n:B - [0:0]\n-X A\nCOMMIT\n",
	}, refuse: "line", want: ":A - [0:0]\n-A A -j DROP\n"},
	{name: "deleting a chain that is not there", inputs: []string{
		"*filter\n:B - [0:0]\n-X NOWHERE\nCOMMIT\n",
	}, refuse: "NOWHERE", want: ""},
	{name: "deleting a rule that is not there", inputs: []string{
		"*filter\n:B - [0:0]\n-D FORWARD -j DROP\nCOMMIT\n",
	}, refuse: "line", want: ""},
	{name: "a set that is not there", inputs: []string{
		"*filter\n:B - [0:0]\n-A B -m set --match-set nowhere src -j DROP\nCOMMIT\n",
	}, refuse: "nowhere", want: ""},
}

// runSuite holds a driver to what Interface promises, and a Ruleset to what it
// promises on that driver.
func runSuite(t *testing.T, family inet.Family, open func(t *testing.T) Interface) {
	for _, c := range driverCases {
		t.Run(c.name, func(t *testing.T) {
			d := open(t)
			for i, input := range c.inputs {
				err := d.Restore(t.Context(), input)
				switch {
				case i < len(c.inputs)-1 || c.refuse == "":
					if err != nil {
						t.Fatal(err)
					}
				case err == nil || !strings.Contains(err.Error(), c.refuse):
					t.Errorf("error %v, want one with %q", err, c.refuse)
				}
			}
			expectTable(t, d, Filter, filterTable(c.want))
		})
	}
	for _, c := range rulesetCases {
		t.Run(c.name, func(t *testing.T) {
			d := &counting{Interface: open(t)}
			c.run(t, d, NewRuleset(d, family, slog.New(slog.DiscardHandler)))
		})
	}
}

// policy and services are two owners' Sections with these rules in one chain
// each.
func policy(rules ...string) Section {
	return Section{
		Owner: "policy", Prefixes: []string{"KUBE-ROUTER-FORWARD", "KUBE-POD-FW-"},
		Tables: map[Table]Content{Filter: {
			Chains: map[string][]string{
				"KUBE-ROUTER-FORWARD": {"-i kube-bridge -j KUBE-POD-FW-A"},
				"KUBE-POD-FW-A":       rules,
			},
			Jumps: []Jump{{Chain: "FORWARD", Rank: RankPolicy, Rule: "-j KUBE-ROUTER-FORWARD"}},
		}},
	}
}

func services(rules ...string) Section {
	return Section{
		Owner: "services", Prefixes: []string{"KUBE-ROUTER-SERVICES"},
		Tables: map[Table]Content{Filter: {
			Chains: map[string][]string{"KUBE-ROUTER-SERVICES": rules},
			Jumps: []Jump{
				{Chain: "INPUT", Rank: RankServices, Rule: "-j KUBE-ROUTER-SERVICES"},
				{Chain: "FORWARD", Rank: RankServices, Rule: "-j KUBE-ROUTER-SERVICES"},
			},
		}},
	}
}

func nothing(s Section) Section { return Section{Owner: s.Owner, Prefixes: s.Prefixes} }

const bothOwners = `:KUBE-POD-FW-A - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-ROUTER-SERVICES - [0:0]
-A INPUT -j KUBE-ROUTER-SERVICES
-A FORWARD -j KUBE-ROUTER-SERVICES
-A FORWARD -j KUBE-ROUTER-FORWARD
-A KUBE-POD-FW-A -j ACCEPT
-A KUBE-ROUTER-FORWARD -i kube-bridge -j KUBE-POD-FW-A
-A KUBE-ROUTER-SERVICES -j RETURN
`

// change applies a Section and expects this many changes and runs of
// iptables-restore.
func change(t *testing.T, r *Ruleset, d *counting, s Section, changes, restores int) {
	t.Helper()
	before := d.restores
	n, err := r.Apply(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if n != changes || d.restores-before != restores {
		t.Errorf("Apply(%s): %d changes in %d runs of iptables-restore, want %d in %d",
			s.Owner, n, d.restores-before, changes, restores)
	}
}

func resync(t *testing.T, r *Ruleset, d *counting, repairs, restores int) {
	t.Helper()
	before := d.restores
	n := 0
	for _, owner := range slices.Sorted(maps.Keys(r.sections)) {
		repaired, err := r.Resync(t.Context(), owner)
		if err != nil {
			t.Fatal(err)
		}
		n += repaired
	}
	if n != repairs || d.restores-before != restores {
		t.Errorf("Resync: %d repairs in %d runs of iptables-restore, want %d in %d",
			n, d.restores-before, repairs, restores)
	}
}

// remove removes the chains of policy and services from the filter table.
func remove(t *testing.T, d *counting, want, wantErr string) {
	t.Helper()
	removed, err := Remove(t.Context(), d, Filter, append(policy().Prefixes, services().Prefixes...))
	got := ""
	for _, line := range removed {
		got += line + "\n"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	if text := fmt.Sprint(err); err == nil && wantErr != "" || err != nil && text != wantErr {
		t.Errorf("error %v, want %q", err, wantErr)
	}
}

// foreign changes the filter table as somebody else would.
func foreign(t *testing.T, d *counting, lines string) {
	t.Helper()
	if err := d.Interface.Restore(t.Context(), "*filter\n"+lines+"COMMIT\n"); err != nil {
		t.Fatal(err)
	}
}

var rulesetCases = []struct {
	name string
	run  func(t *testing.T, d *counting, r *Ruleset)
}{
	{"owners one after the other, jumps by rank", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		change(t, r, d, services("-j RETURN"), 3, 1)
		expectTable(t, d, Filter, filterTable(bothOwners))
		change(t, r, d, policy("-j ACCEPT"), 0, 0)
		resync(t, r, d, 0, 0)
		for owner, want := range map[string]int{"policy": 3, "services": 3, "nobody": 0} {
			if n := r.RuleCount(owner)[Filter]; n != want {
				t.Errorf("RuleCount(%s) = %d, want %d", owner, n, want)
			}
		}
	}},
	{"a restart adopts what is there, whoever comes first", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		change(t, r, d, services("-j RETURN"), 3, 1)
		for _, order := range [][]Section{
			{policy("-j ACCEPT"), services("-j RETURN")}, {services("-j RETURN"), policy("-j ACCEPT")},
		} {
			again := NewRuleset(d, inet.IPv4, slog.New(slog.DiscardHandler))
			saves := d.saves
			for _, s := range order {
				change(t, again, d, s, 0, 0)
			}
			if n := d.saves - saves; n != 1 {
				t.Errorf("two owners read the tables %d times, want once, and all of them", n)
			}
		}
	}},
	{"only the chain that differs is written", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		change(t, r, d, policy("-p tcp -m tcp --dport 80 -j ACCEPT", "-j DROP"), 1, 1)
		expectTable(t, d, Filter, filterTable(`:KUBE-POD-FW-A - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
-A FORWARD -j KUBE-ROUTER-FORWARD
-A KUBE-POD-FW-A -p tcp -m tcp --dport 80 -j ACCEPT
-A KUBE-POD-FW-A -j DROP
-A KUBE-ROUTER-FORWARD -i kube-bridge -j KUBE-POD-FW-A
`))
	}},
	{"any list of rules becomes any other", func(t *testing.T, d *counting, r *Ruleset) {
		words := []string{"-j ACCEPT", "-j DROP", "-j RETURN", "-i lo -j ACCEPT"}
		random := rand.New(rand.NewPCG(7, 7))
		change(t, r, d, policy(words...), 3, 1)
		for range 40 {
			var rules []string
			for range 1 + random.IntN(8) {
				rules = append(rules, words[random.IntN(len(words))])
			}
			if _, err := r.Apply(t.Context(), policy(rules...)); err != nil {
				t.Fatal(err)
			}
			want := ":KUBE-POD-FW-A - [0:0]\n:KUBE-ROUTER-FORWARD - [0:0]\n-A FORWARD -j KUBE-ROUTER-FORWARD\n"
			for _, rule := range rules {
				want += "-A KUBE-POD-FW-A " + rule + "\n"
			}
			expectTable(t, d, Filter, filterTable(want+"-A KUBE-ROUTER-FORWARD -i kube-bridge -j KUBE-POD-FW-A\n"))
		}
	}},
	{"switched off, nothing of the owner is left", func(t *testing.T, d *counting, r *Ruleset) {
		foreign(t, d, ":MINE - [0:0]\n-A FORWARD -j MINE\n-A MINE -j RETURN\n")
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		change(t, r, d, services("-j RETURN"), 3, 1)
		change(t, r, d, nothing(policy()), 3, 1)
		change(t, r, d, nothing(services()), 3, 1)
		expectTable(t, d, Filter, filterTable(":MINE - [0:0]\n-A FORWARD -j MINE\n-A MINE -j RETURN\n"))
		change(t, r, d, nothing(services()), 0, 0)
	}},
	{"what a former version left goes", func(t *testing.T, d *counting, r *Ruleset) {
		foreign(t, d, ":KUBE-POD-FW-OLD - [0:0]\n:KUBE-POD-FW-OLDER - [0:0]\n"+
			"-A KUBE-POD-FW-OLD -j KUBE-POD-FW-OLDER\n-A KUBE-POD-FW-OLDER -j DROP\n"+
			"-A FORWARD -j KUBE-POD-FW-OLD\n-A OUTPUT -o eth7 -g KUBE-POD-FW-OLD\n")
		change(t, r, d, policy("-j ACCEPT"), 7, 1)
		expectTable(t, d, Filter, filterTable(`:KUBE-POD-FW-A - [0:0]
:KUBE-ROUTER-FORWARD - [0:0]
-A FORWARD -j KUBE-ROUTER-FORWARD
-A KUBE-POD-FW-A -j ACCEPT
-A KUBE-ROUTER-FORWARD -i kube-bridge -j KUBE-POD-FW-A
`))
	}},
	{"a chain that a foreign rule leads to stays, empty, until that is gone", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		foreign(t, d, ":MINE - [0:0]\n-A MINE -j KUBE-POD-FW-A\n")
		resync(t, r, d, 0, 0)
		change(t, r, d, nothing(policy()), 3, 1)
		change(t, r, d, nothing(policy()), 0, 0)
		expectTable(t, d, Filter, filterTable(":KUBE-POD-FW-A - [0:0]\n:MINE - [0:0]\n-A MINE -j KUBE-POD-FW-A\n"))
		foreign(t, d, "-F MINE\n")
		resync(t, r, d, 1, 1)
		expectTable(t, d, Filter, filterTable(":MINE - [0:0]\n"))
	}},
	{"a foreign rule that came meanwhile does not stop a deletion for good", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		foreign(t, d, ":MINE - [0:0]\n-A MINE -j KUBE-POD-FW-A\n")
		change(t, r, d, nothing(policy()), 3, 2) // refused, read anew, done
		expectTable(t, d, Filter, filterTable(":KUBE-POD-FW-A - [0:0]\n:MINE - [0:0]\n-A MINE -j KUBE-POD-FW-A\n"))
	}},
	{"resync repairs drift", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		change(t, r, d, services("-j RETURN"), 3, 1)
		foreign(t, d, "-A KUBE-POD-FW-A -j DROP\n"+ // changed
			"-A KUBE-ROUTER-SERVICES -j DROP\n"+ // changed, of the other owner
			":KUBE-POD-FW-X - [0:0]\n"+ // not ours to have
			"-D INPUT -j KUBE-ROUTER-SERVICES\n"+ // missing
			"-A FORWARD -j KUBE-ROUTER-SERVICES\n"+ // twice
			"-I FORWARD 1 -i docker0 -j ACCEPT\n") // before ours
		resync(t, r, d, 9, 2) // one run for each owner
		expectTable(t, d, Filter, filterTable(strings.Replace(bothOwners,
			"-A KUBE-POD-FW-A", "-A FORWARD -i docker0 -j ACCEPT\n-A KUBE-POD-FW-A", 1)))
		resync(t, r, d, 0, 0)
	}},
	{"removal takes what has the prefixes, and what leads there", func(t *testing.T, d *counting, r *Ruleset) {
		const others = ":KUBE-ROUTER-MINE - [0:0]\n-A FORWARD -j KUBE-ROUTER-MINE\n-A KUBE-ROUTER-MINE -j RETURN\n"
		foreign(t, d, others)
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		change(t, r, d, services("-j RETURN"), 3, 1)
		foreign(t, d, ":KUBE-POD-FW-OLD - [0:0]\n-A KUBE-POD-FW-OLD -j KUBE-POD-FW-A\n-A OUTPUT -o eth7 -j KUBE-POD-FW-OLD\n")
		remove(t, d, `rule -A INPUT -j KUBE-ROUTER-SERVICES
rule -A FORWARD -j KUBE-ROUTER-SERVICES
rule -A FORWARD -j KUBE-ROUTER-FORWARD
rule -A OUTPUT -o eth7 -j KUBE-POD-FW-OLD
chain KUBE-POD-FW-A
chain KUBE-POD-FW-OLD
chain KUBE-ROUTER-FORWARD
chain KUBE-ROUTER-SERVICES
`, "")
		expectTable(t, d, Filter, filterTable(others))
		remove(t, d, "", "")
	}},
	{"removal names who keeps a chain", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		foreign(t, d, ":MINE - [0:0]\n-A MINE -j KUBE-POD-FW-A\n")
		const complaint = "chain KUBE-POD-FW-A stays, empty, because a rule of chain MINE leads to it: remove that rule"
		remove(t, d, "rule -A FORWARD -j KUBE-ROUTER-FORWARD\nchain KUBE-ROUTER-FORWARD\n", complaint)
		remove(t, d, "", complaint)
		foreign(t, d, "-F MINE\n")
		remove(t, d, "chain KUBE-POD-FW-A\n", "")
	}},
	{"a chain that vanished comes back with the next change", func(t *testing.T, d *counting, r *Ruleset) {
		change(t, r, d, policy("-j ACCEPT"), 3, 1)
		foreign(t, d, "-F FORWARD\n-F KUBE-ROUTER-FORWARD\n-F KUBE-POD-FW-A\n-X KUBE-POD-FW-A\n")
		change(t, r, d, nothing(policy()), 1, 2)
		expectTable(t, d, Filter, filterTable(""))
	}},
	{"all tables in one run", func(t *testing.T, d *counting, r *Ruleset) {
		s := services("-j RETURN")
		s.Prefixes = append(s.Prefixes, "KUBE-ROUTER-NAT", "KUBE-ROUTER-MARK")
		s.Tables[NAT] = Content{
			Chains: map[string][]string{"KUBE-ROUTER-NAT": {"-j MASQUERADE --random-fully"}},
			Jumps:  []Jump{{"POSTROUTING", RankServices, `-m comment --comment "node's SNAT" -j KUBE-ROUTER-NAT`}},
		}
		s.Tables[Mangle] = Content{
			Chains: map[string][]string{"KUBE-ROUTER-MARK": {"-j MARK --set-xmark 0x1/0xffffffff"}},
			Jumps:  []Jump{{"PREROUTING", RankServices, "-j KUBE-ROUTER-MARK"}},
		}
		change(t, r, d, s, 7, 1)
		change(t, NewRuleset(d, inet.IPv4, slog.New(slog.DiscardHandler)), d, s, 0, 0)
		change(t, r, d, nothing(s), 7, 1)
		expectTable(t, d, NAT, "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n")
	}},
}
