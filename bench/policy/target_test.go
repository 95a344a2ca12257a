package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func ms(v float64) *Spread { return &Spread{Count: 20, P50: v * 1000, P90: v * 1000, Max: v * 2000} }

func ratio(v float64) *float64 { return &v }

// good are rows that meet every target with nothing to spare.
func good() map[string]Row {
	sets, rule := &Operations{Sets: 2}, &Operations{Rules: 1}
	return map[string]Row{
		remoteAdded:                     {Time: ms(5), Operations: sets},
		remoteRemoved:                   {Time: ms(5), Operations: sets},
		localAdded:                      {Time: ms(500), Operations: rule},
		localRemoved:                    {Time: ms(500), Operations: rule},
		portChanged:                     {Time: ms(50), Operations: rule},
		peerChanged:                     {Time: ms(50), Operations: rule},
		compileName:                     {Time: ms(2000), Memory: &Memory{Now: 900, Peak: 1000}},
		memoryName:                      {Memory: &Memory{Now: 60, Peak: 200}},
		connectName(unaffected, all):    {Time: ms(0.02), Ratio: ratio(1.1)},
		connectName(affected, all):      {Time: ms(0.02), Ratio: ratio(1.2)},
		connectName(affected, allOnOne): {Time: ms(9), Ratio: ratio(9)},
	}
}

func judged(rows map[string]Row) (missed []string) {
	var list []Row
	for what, r := range rows {
		r.What = what
		list = append(list, r)
	}
	targets := judge(list)
	for _, t := range targets {
		if !t.OK {
			missed = append(missed, t.Name+": "+t.Value)
		}
	}
	if held(targets) != (len(missed) == 0) {
		missed = append(missed, "held is wrong")
	}
	return missed
}

func TestTargets(t *testing.T) {
	for _, test := range []struct {
		what string
		row  Row
		want string
	}{
		{remoteAdded, good()[remoteAdded], ""},
		{remoteAdded, Row{Time: ms(5.1), Operations: &Operations{Sets: 2}}, "remote pod change, p50: 5.10 ms"},
		{remoteRemoved, Row{Time: ms(6), Operations: &Operations{Sets: 2}}, "remote pod change, p50: 6 ms"},
		{remoteRemoved, Row{Time: ms(1), Operations: &Operations{Sets: 2, Rules: 0.05}}, "remote pod change, operations: 2 of sets, 0 of rules; 2 of sets, 0.05 of rules"},
		{remoteRemoved, Row{Time: ms(1), Operations: &Operations{}}, "remote pod change, operations: 2 of sets, 0 of rules; 0 of sets, 0 of rules"},
		{portChanged, Row{Time: ms(51), Operations: &Operations{}}, "policy change, p50: 51 ms"},
		{peerChanged, Row{Time: ms(51), Operations: &Operations{}}, "policy change, p50: 51 ms"},
		{peerChanged, Row{Time: ms(1)}, "rules rewritten that did not change, of a change: not measured"},
		{localAdded, Row{Time: ms(1), Operations: &Operations{Rules: 3, Unchanged: 0.1}}, "rules rewritten that did not change, of a change: 0.10 rules"},
		{compileName, Row{Time: ms(2100), Memory: &Memory{Peak: 1}}, "100,000 pods and 75,000 policies compiled: 2.10 s"},
		{compileName, Row{Time: ms(1), Memory: &Memory{Peak: 1001}}, "memory for that, peak: 1001 MB"},
		{memoryName, Row{Memory: &Memory{Now: 60.5}}, "agent memory, 10,000 pods and 1,000 policies: 60.5 MB"},
		{memoryName, Row{}, "agent memory, 10,000 pods and 1,000 policies: not measured"},
		{connectName(unaffected, all), Row{Ratio: ratio(1.11)}, "connecting with 1,000 policies against none, unaffected: 1.11 times"},
		{connectName(affected, all), Row{Ratio: ratio(1.21)}, "connecting with 1,000 policies against none, affected: 1.21 times"},
	} {
		rows := good()
		rows[test.what] = test.row
		if got := strings.Join(judged(rows), "; "); got != test.want {
			t.Errorf("%s: missed %q, want %q", test.what, got, test.want)
		}
	}
	if missed := judged(nil); len(missed) != 9 {
		t.Errorf("without any row only these are missed: %q", missed)
	}
}

func TestTable(t *testing.T) {
	var out strings.Builder
	err := writeTable(&out, []Row{
		{What: portChanged, Policies: 1000, Time: &Spread{Count: 20, P50: 12345, Max: 2e6}, Operations: &Operations{Rules: 1, Unchanged: 0.5, Restoring: 900}},
		{What: connectName(affected, all), Policies: 1000, Time: &Spread{Count: 4500, P50: 20.52, Max: 123}, Ratio: ratio(1.04)},
		{What: memoryName, Policies: 1000, Memory: &Memory{Now: 55.55, Peak: 101}, Note: "of that 20 MB are the program"},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `
                                 what  policies      p50     max  samples  to none  set ops  rules  unchanged  restore  memory MB  peak
               policy changed: a port      1000  12.3 ms     2 s       20        -        0      1       0.50   900 us          -     -
  connect, affected: ours, 1000 policies      1000  20.5 us  123 us     4500     1.04        -      -          -        -          -     -
                        agent at rest      1000        -       -        -        -        -      -          -        -       55.5   101
agent at rest: of that 20 MB are the program
`
	if got := squeeze(out.String()); got != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// squeeze leaves one space where there are more, and no empty lines.
func squeeze(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if fields := strings.Fields(line); len(fields) > 0 {
			lines = append(lines, strings.Join(fields, " "))
		}
	}
	return strings.Join(lines, "\n")
}

func TestVerdicts(t *testing.T) {
	var out strings.Builder
	if err := writeTargets(&out, []Target{{"time", "<= 5 ms", "4 ms", true}, {"memory", "<= 60 MB", notMeasured, false}}); err != nil {
		t.Fatal(err)
	}
	const want = `
ok      time    4 ms          <= 5 ms
not ok  memory  not measured  <= 60 MB

1 of 2 targets hold
`
	if got := out.String(); got != want[1:] {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestResultsAreReadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench", "results", "policy.json")
	if err := writeResults(path, []Row{{What: memoryName, Memory: &Memory{Now: 1}}}, []Target{{"t", "l", "v", true}}, 0.5); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Rows     []Row    `json:"rows"`
		Targets  []Target `json:"targets"`
		HostLoad float64  `json:"hostLoad"`
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 1 || got.Rows[0].Memory == nil || len(got.Targets) != 1 || !got.Targets[0].OK || got.HostLoad != 0.5 {
		t.Errorf("read back: %+v", got)
	}
}

func TestSpread(t *testing.T) {
	var samples []time.Duration
	for i := range 20 {
		samples = append(samples, time.Duration(20-i)*time.Microsecond)
	}
	if got, want := *spreadOf(samples), (Spread{Count: 20, P50: 10, P90: 18, Max: 20}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if spreadOf(nil) != nil {
		t.Error("a spread of nothing")
	}
}

// What all processes met in a round cancels out.
func TestRatioIsOfRounds(t *testing.T) {
	ours := timing{medians: []time.Duration{110, 220, 55, 1100, 99}}
	other := timing{medians: []time.Duration{100, 200, 50, 1000, 100}}
	if got := ours.ratio(other); got == nil || *got != 1.1 {
		t.Errorf("got %v, want 1.1", got)
	}
	if got := ours.ratio(timing{medians: other.medians[:4]}); got != nil {
		t.Errorf("of rounds that are not of one kind: %v", *got)
	}
}
