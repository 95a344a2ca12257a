package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// explain turns an error of the flag package into one line that names the
// flag, the value and what is allowed.
func (f *flags) explain(err error) error {
	var (
		invalid *pflag.InvalidValueError
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
	)
	switch {
	case errors.As(err, &invalid):
		return fmt.Errorf("--%s=%s: %w", invalid.GetFlag().Name, printable(invalid.GetValue()), invalid.Unwrap())
	case errors.As(err, &unknown):
		return f.explainUnknown(unknown)
	case errors.As(err, &missing):
		return fmt.Errorf("--%s: a value is missing; write --%s=%s", missing.GetFlag().Name, missing.GetFlag().Name, missing.GetFlag().Value.Type())
	}
	return fmt.Errorf("%s; 'kube-router --help' lists the flags", printable(err.Error()))
}

// printable keeps an error on one line, whatever was typed.
func printable(s string) string {
	if quoted := strconv.Quote(s); strings.Contains(quoted, `\n`) || strings.Contains(quoted, `\x`) || strings.Contains(quoted, `\r`) {
		return quoted
	}
	return s
}

// explainUnknown suggests the flag that was meant. A long name after one dash
// arrives here as an unknown letter.
func (f *flags) explainUnknown(unknown *pflag.NotExistError) error {
	written, name := "--"+printable(unknown.GetSpecifiedName()), unknown.GetSpecifiedName()
	if letters := unknown.GetSpecifiedShortnames(); letters != "" {
		written, name = "-"+printable(letters), letters
	}
	name, _, _ = strings.Cut(name, "=")
	if near := f.nearest(name); near != "" {
		return fmt.Errorf("%s: no such flag; did you mean --%s? 'kube-router --help' lists all", written, near)
	}
	return fmt.Errorf("%s: no such flag; 'kube-router --help' lists all", written)
}

// nearest is the flag whose name takes the fewest edits to become name, or
// empty where that would be another word altogether.
func (f *flags) nearest(name string) string {
	nearest, fewest := "", max(2, len(name)/3)+1
	f.set.VisitAll(func(flag *pflag.Flag) {
		if d := distance(name, flag.Name); len(flag.Name) > 1 && d < fewest {
			nearest, fewest = flag.Name, d
		}
	})
	return nearest
}

// distance is the Levenshtein distance of two strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j]+1, row[j+1]+1, substitute)
		}
	}
	return row[len(b)]
}
