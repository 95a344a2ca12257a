package docs

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/config"
)

// Each flag of earlier releases is taken with the default that it had there,
// or the table says that it is refused; and each flag of ours is either one of
// those or said to be new.
func TestFormerFlagsAreTaken(t *testing.T) {
	text := read(t, "compat.md")
	var former []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z0-9-]+)` \\| (?:`([^`]*)`)? ?\\| (.*) \\|$").FindAllStringSubmatch(text, -1) {
		name, value, here := row[1], row[2], row[3]
		former = append(former, name)
		if strings.Contains(here, value+" is refused") {
			continue
		}
		_, err := config.Parse([]string{"--" + name + "=" + value}, func(string) string { return "" })
		if err != nil && !errors.Is(err, config.ErrHelp) {
			t.Errorf("--%s=%s: %v", name, value, err)
		}
	}
	if len(former) < 75 {
		t.Errorf("only %d flags were found", len(former))
	}
	_, fresh, _ := strings.Cut(text, "\nNew: ")
	fresh, _, _ = strings.Cut(fresh, "\n\n")
	for _, flag := range regexp.MustCompile("`--([a-z0-9-]+)`").FindAllStringSubmatch(fresh, -1) {
		former = append(former, flag[1])
	}
	var ours []string
	for _, row := range regexp.MustCompile("(?m)^\\| `--([a-z0-9-]+)`").FindAllStringSubmatch(read(t, "flags.md"), -1) {
		ours = append(ours, row[1])
	}
	slices.Sort(former)
	slices.Sort(ours)
	if !slices.Equal(former, ours) {
		t.Errorf("compat.md has\n%s\nand flags.md\n%s", former, ours)
	}
}
