package main

import "fmt"

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

// The rows that targets speak of.
const (
	changeName = "next hop of a prefix changed"
	flapName   = "100 prefixes/s flap for 30 s"
	memoryName = "1000 prefixes, at rest"
)

func learnName(n int) string     { return fmt.Sprintf("%d prefixes into the kernel", n) }
func reflectorName(n int) string { return fmt.Sprintf("%d clients of 2 reflectors", n) }
func meshName(n int) string      { return fmt.Sprintf("mesh of %d", n) }

// judge holds the rows against the targets.
func judge(rows []Row) []Target {
	t := map[string]Row{}
	for _, r := range rows {
		if r.By == ours {
			t[r.What] = r
		}
	}
	return []Target{
		limited("1,000 prefixes in the kernel after the session is up", t[learnName(1000)].longest(1e6), 1, "s"),
		limited("5,000 prefixes in the kernel after the session is up", t[learnName(5000)].longest(1e6), 4, "s"),
		limited("kernel operations for 1,000 prefixes", t[learnName(1000)].Operations, 1000, "operations"),
		limited("kernel operations for 5,000 prefixes", t[learnName(5000)].Operations, 5000, "operations"),
		limited("a changed next hop in the kernel, longest", t[changeName].longest(1e3), 50, "ms"),
		limited("operations that were not needed, in a flap", t[flapName].Repeated, 0, "operations"),
		limited("1,000 clients of two reflectors converged", t[reflectorName(1000)].longest(1e6), 30, "s"),
		limited("agent memory with 1,000 prefixes", t[memoryName].Memory, 45, "MB"),
	}
}

func (r Row) longest(unit float64) *float64 {
	if r.Time == nil {
		return nil
	}
	v := r.Time.Max / unit
	return &v
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

// held tells whether all targets are met.
func held(targets []Target) bool {
	for _, t := range targets {
		if !t.OK {
			return false
		}
	}
	return true
}
