package main

import (
	"fmt"
	"math"
	"strings"
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

// The rows that targets speak of, beside those of connections.
const (
	remoteAdded   = "remote pod added"
	remoteRemoved = "remote pod removed"
	localAdded    = "local pod added"
	localRemoved  = "local pod removed"
	portChanged   = "policy changed: a port"
	peerChanged   = "policy changed: a peer"
	compileName   = "100000 pods compiled"
	memoryName    = "agent at rest"
)

// rewriting are the rows in which no rule may be rewritten that did not
// change.
var rewriting = []string{remoteAdded, remoteRemoved, localAdded, localRemoved, portChanged, peerChanged}

// judge holds the rows against the targets.
func judge(rows []Row) []Target {
	t := table{}
	for _, r := range rows {
		t[r.What] = r
	}
	milliseconds := func(r Row) *float64 { return r.p50(1000) }
	return []Target{
		limited("remote pod change, p50", t.highest(milliseconds, remoteAdded, remoteRemoved), 5, "ms"),
		t.judgeSetsOnly(),
		limited("policy change, p50", t.highest(milliseconds, portChanged, peerChanged), 50, "ms"),
		limited("rules rewritten that did not change, of a change", t.highest(Row.unchanged, rewriting...), 0, "rules"),
		limited("100,000 pods and 75,000 policies compiled", t.highest(func(r Row) *float64 { return r.p50(1e6) }, compileName), 2, "s"),
		limited("memory for that, peak", t.highest(Row.peak, compileName), 1000, "MB"),
		limited("connecting with 1,000 policies against none, unaffected", t.highest(func(r Row) *float64 { return r.Ratio }, connectName(unaffected, all)), 1.1, "times"),
		limited("connecting with 1,000 policies against none, affected", t.highest(func(r Row) *float64 { return r.Ratio }, connectName(affected, all)), 1.2, "times"),
		limited("agent memory, 10,000 pods and 1,000 policies", t.highest(Row.resident, memoryName), 60, "MB"),
	}
}

type table map[string]Row

// highest is the highest figure of the named rows, nil where one of them lacks
// it.
func (t table) highest(of func(Row) *float64, names ...string) *float64 {
	highest := math.Inf(-1)
	for _, name := range names {
		f := of(t[name])
		if f == nil {
			return nil
		}
		highest = max(highest, *f)
	}
	return &highest
}

func (r Row) p50(unit float64) *float64 {
	if r.Time == nil {
		return nil
	}
	v := r.Time.P50 / unit
	return &v
}

func (r Row) unchanged() *float64 {
	if r.Operations == nil {
		return nil
	}
	return &r.Operations.Unchanged
}

func (r Row) resident() *float64 {
	if r.Memory == nil {
		return nil
	}
	return &r.Memory.Now
}

func (r Row) peak() *float64 {
	if r.Memory == nil {
		return nil
	}
	return &r.Memory.Peak
}

// limited is the target of a figure that must not exceed its limit.
func limited(name string, f *float64, limit float64, unit string) Target {
	t := Target{Name: name, Limit: fmt.Sprintf("<= %s %s", number(limit), unit), Value: notMeasured}
	if f != nil {
		t.Value = number(*f) + " " + unit
		t.OK = *f <= limit
	}
	return t
}

// judgeSetsOnly wants set operations, and no rule, for remote Pods.
func (t table) judgeSetsOnly() Target {
	target := Target{Name: "remote pod change, operations", Limit: "of sets only", Value: notMeasured, OK: true}
	var values []string
	for _, name := range []string{remoteAdded, remoteRemoved} {
		o := t[name].Operations
		if o == nil {
			return Target{Name: target.Name, Limit: target.Limit, Value: notMeasured}
		}
		values = append(values, fmt.Sprintf("%s of sets, %s of rules", number(o.Sets), number(o.Rules)))
		target.OK = target.OK && o.Sets > 0 && o.Rules == 0
	}
	target.Value = strings.Join(values, "; ")
	return target
}

// held tells whether all targets are met.
func held(targets []Target) bool {
	for _, t := range targets {
		if !t.OK {
			return false
		}
	}
	return true
}
