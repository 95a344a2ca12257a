package bench

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
)

// number writes a value with as many digits as can matter.
func number(v float64) string {
	switch {
	case v == float64(int64(v)):
		return strconv.FormatInt(int64(v), 10)
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// String is the figure as a table has it: "-" if it was not measured.
func (f *Figure) String() string {
	switch {
	case f == nil:
		return "-"
	case f.Over:
		return "over " + number(f.Value)
	default:
		return number(f.Value)
	}
}

// columns are the table's columns after the proxy's name.
var columns = []struct {
	title string
	of    func(Row) string
}{
	{"Services", func(r Row) string { return strconv.Itoa(r.Services) }},
	{"cold start s", func(r Row) string { return r.ColdStart.String() }},
	{"new p50 ms", func(r Row) string { return r.New.of(func(s Spread) *Figure { return exactly(s.P50) }) }},
	{"p90", func(r Row) string { return r.New.of(func(s Spread) *Figure { return exactly(s.P90) }) }},
	{"max", func(r Row) string { return r.New.of(func(s Spread) *Figure { return &Figure{s.Max, s.Over} }) }},
	{"samples", func(r Row) string { return r.New.of(func(s Spread) *Figure { return Count(s.Count) }) }},
	{"CPU s/1000 changes", func(r Row) string { return r.ChangeCPU.String() }},
	{"in s", func(r Row) string { return r.ChangeTime.String() }},
	{"memory MB", func(r Row) string { return r.Memory.String() }},
	{"peak", func(r Row) string { return r.Memory.peak() }},
	{"rules", func(r Row) string { return r.Rules.String() }},
	{"connect us", func(r Row) string { return r.Connect.of(throughService) }},
	{"direct", func(r Row) string { return r.Connect.of(straight) }},
	{"at 100", func(r Row) string { return r.ConnectFew.of(throughService) }},
	{"direct", func(r Row) string { return r.ConnectFew.of(straight) }},
	{"host load", func(r Row) string { return exactly(r.Load).String() }},
}

func (s *Spread) of(get func(Spread) *Figure) string {
	if s == nil {
		return "-"
	}
	return get(*s).String()
}

func (c *Connecting) of(get func(Connecting) float64) string {
	if c == nil {
		return "-"
	}
	return number(get(*c))
}

func throughService(c Connecting) float64 { return c.Service }
func straight(c Connecting) float64       { return c.Direct }

func (m *Memory) String() string {
	if m == nil {
		return "-"
	}
	return number(m.Total)
}

func (m *Memory) peak() string {
	if m == nil {
		return "-"
	}
	return number(m.Peak)
}

// WriteTable prints all rows, and below them what was not measured and why.
func WriteTable(out io.Writer, rows []Row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "proxy\t")
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c.title)
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t", r.Proxy)
		for _, c := range columns {
			fmt.Fprintf(w, "%s\t", c.of(r))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		if r.Sequence != nil {
			fmt.Fprintf(out, "%s at %d, connections one after the other: %s\n", r.Proxy, r.Services, r.Sequence)
		}
	}
	for _, r := range rows {
		for _, c := range []*Connecting{r.Connect, r.ConnectFew} {
			if c != nil && c.Failed > 0 {
				fmt.Fprintf(out, "%s at %d, connecting: %d failed\n", r.Proxy, r.Services, c.Failed)
			}
		}
		if r.Error != "" {
			fmt.Fprintf(out, "%s at %d: %s\n", r.Proxy, r.Services, r.Error)
		}
	}
	return nil
}

// WriteTargets prints each target's verdict.
func WriteTargets(out io.Writer, targets []Target) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	met := 0
	for _, t := range targets {
		verdict := "not ok"
		if t.OK {
			verdict = "ok"
			met++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", verdict, t.Name, t.Value, t.Limit)
	}
	fmt.Fprintf(w, "\n%d of %d targets hold\n", met, len(targets))
	return w.Flush()
}
