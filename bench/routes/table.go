package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// duration writes microseconds in the unit that suits them.
func duration(us float64) string {
	switch {
	case us >= 1e6:
		return number(us/1e6) + " s"
	case us >= 1e3:
		return number(us/1e3) + " ms"
	}
	return number(us) + " us"
}

// columns are the table's columns after the first. Each writes "-" where a row
// lacks its figure.
var columns = []struct {
	title string
	of    func(Row) string
}{
	{"p50", func(r Row) string { return ofPart(r.Time, func(s Spread) string { return duration(s.P50) }) }},
	{"max", func(r Row) string { return ofPart(r.Time, func(s Spread) string { return duration(s.Max) }) }},
	{"samples", func(r Row) string { return ofPart(r.Time, func(s Spread) string { return strconv.Itoa(s.Count) }) }},
	{"sessions", func(r Row) string { return ofPart(r.Sessions, number) }},
	{"kernel ops", func(r Row) string { return ofPart(r.Operations, number) }},
	{"not needed", func(r Row) string { return ofPart(r.Repeated, number) }},
	{"memory MB", func(r Row) string { return ofPart(r.Memory, number) }},
}

func ofPart[T any](part *T, text func(T) string) string {
	if part == nil {
		return "-"
	}
	return text(*part)
}

// writeTable prints all rows, and below them what there is to say of them.
func writeTable(out io.Writer, rows []Row) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "what\tby\t")
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c.title)
	}
	fmt.Fprintln(w)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t", r.What, r.By)
		for _, c := range columns {
			fmt.Fprintf(w, "%s\t", c.of(r))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range rows {
		if r.Note != "" {
			fmt.Fprintf(out, "%s, %s: %s\n", r.What, r.By, r.Note)
		}
	}
	fmt.Fprintln(out)
	return nil
}

// writeTargets prints each target's verdict.
func writeTargets(out io.Writer, targets []Target) error {
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

func writeResults(path string, rows []Row, targets []Target, load float64) error {
	data, err := json.MarshalIndent(map[string]any{"rows": rows, "targets": targets, "hostLoad": load}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
