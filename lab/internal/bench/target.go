package bench

import (
	"fmt"
	"math"
)

// Target is a limit, and what was measured against it.
type Target struct {
	Name  string `json:"name"`
	Limit string `json:"limit"`
	Value string `json:"value"`
	OK    bool   `json:"ok"`
}

// notMeasured is the value of a target whose figures are missing: it is
// missed, since a run that leaves something out proves nothing.
const notMeasured = "not measured"

// The sizes that the targets speak of.
const (
	small = 600
	large = 5000
)

// Judge holds our rows against the targets, and against kube-proxy's rows.
func Judge(rows []Row) []Target {
	t := table{}
	for i := range rows {
		t[key{rows[i].Proxy, rows[i].Services}] = &rows[i]
	}
	return []Target{
		limited("new Service works, p50 at 5,000 Services", t.newP50(large), 50, "ms"),
		limited("new Service works, longest at 5,000", t.newMax(large), 150, "ms"),
		t.judgeGrowth(),
		t.judgeColdStart(),
		limited("memory at 600", t.memory(small), 35, "MB"),
		limited("memory at 5,000", t.memory(large), 60, "MB"),
		limited("iptables rules at 600", t.of(Ours, small).Rules, 47, "rules"),
		judgeConstantRules(rows),
		t.judgeConnect(),
		judgeSequence(rows),
	}
}

type key struct {
	proxy    string
	services int
}

type table map[key]*Row

// of returns an empty row where nothing was measured.
func (t table) of(proxy string, services int) Row {
	if r := t[key{proxy, services}]; r != nil {
		return *r
	}
	return Row{}
}

func (t table) newP50(services int) *Figure {
	if s := t.of(Ours, services).New; s != nil {
		return exactly(s.P50)
	}
	return nil
}

func (t table) newMax(services int) *Figure {
	if s := t.of(Ours, services).New; s != nil {
		return &Figure{Value: s.Max, Over: s.Over}
	}
	return nil
}

func (t table) memory(services int) *Figure {
	if m := t.of(Ours, services).Memory; m != nil {
		return exactly(m.Total)
	}
	return nil
}

// limited is the target of a figure that must not exceed its limit.
func limited(name string, f *Figure, limit float64, unit string) Target {
	t := Target{Name: name, Limit: fmt.Sprintf("<= %s %s", number(limit), unit), Value: notMeasured}
	if f != nil {
		t.Value = f.String() + " " + unit
		t.OK = f.Value <= limit && !f.Over
	}
	return t
}

func (t table) judgeGrowth() Target {
	const name = "new Service works no later at 5,000 than at 600, p50"
	few, many := t.newP50(small), t.newP50(large)
	if few == nil || many == nil {
		return Target{Name: name, Limit: "<= 1.5 times", Value: notMeasured}
	}
	target := limited(name, many, 1.5*few.Value, "ms")
	target.Limit += fmt.Sprintf(" (1.5 times %s ms)", few)
	return target
}

// judgeColdStart compares with the faster of kube-proxy's modes. A start that
// was given up counts as what was waited for.
func (t table) judgeColdStart() Target {
	const name = "cold start at 5,000 against kube-proxy's faster mode"
	ours := t.of(Ours, large).ColdStart
	ipvs, iptables := t.of(IPVS, large).ColdStart, t.of(IPTables, large).ColdStart
	if ours == nil || ipvs == nil || iptables == nil {
		return Target{Name: name, Limit: "<= a tenth", Value: notMeasured}
	}
	target := limited(name, ours, math.Min(ipvs.Value, iptables.Value)/10, "s")
	target.Limit += fmt.Sprintf(" (a tenth of ipvs %s, iptables %s)", ipvs, iptables)
	return target
}

// judgeConstantRules wants the same number of rules at all sizes, of which
// there must be more than one.
func judgeConstantRules(rows []Row) Target {
	t := Target{Name: "iptables rules are as many at every size", Limit: "one number", Value: notMeasured}
	counts := map[float64]bool{}
	sizes, text := 0, ""
	for _, r := range rows {
		if r.Proxy != Ours || r.Rules == nil {
			continue
		}
		sizes++
		counts[r.Rules.Value] = true
		text += fmt.Sprintf("%s at %d, ", r.Rules, r.Services)
	}
	if sizes < 2 {
		return t
	}
	t.Value, t.OK = text[:len(text)-2], len(counts) == 1
	return t
}

// judgeConnect compares in units of direct connections: the host is not equally
// fast at two times. None may fail.
func (t table) judgeConnect() Target {
	const name = "connecting at 5,000 against 100"
	r := t.of(Ours, large)
	if r.Connect == nil || r.ConnectFew == nil {
		return Target{Name: name, Limit: "<= 1.1 times", Value: notMeasured}
	}
	few := r.ConnectFew.ratio()
	target := limited(name, exactly(r.Connect.ratio()), 1.1*few, "times a direct one")
	target.Limit += fmt.Sprintf(" (1.1 times %s)", number(few))
	if failed := r.Connect.Failed + r.ConnectFew.Failed; failed > 0 {
		target.OK, target.Value = false, fmt.Sprintf("%s, %d connections failed", target.Value, failed)
	}
	return target
}

// judgeSequence wants all rows of connections that were made to be quick.
func judgeSequence(rows []Row) Target {
	t := Target{Name: "10,000 connections from one client", Limit: "none takes 1 s", Value: notMeasured}
	for _, r := range rows {
		if r.Proxy == Ours && r.Sequence != nil {
			t.Value = r.Sequence.String()
			t.OK = r.Sequence.Count == SequenceLength && r.Sequence.Slow == 0 && r.Sequence.Failed == 0
			if !t.OK {
				return t
			}
		}
	}
	return t
}

// SequenceLength is the number of connections of a Sequence.
const SequenceLength = 10000

// Held tells whether all targets are met.
func Held(targets []Target) bool {
	for _, t := range targets {
		if !t.OK {
			return false
		}
	}
	return true
}
