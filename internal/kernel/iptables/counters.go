package iptables

import (
	"fmt"
	"strconv"
	"strings"
)

// parseCounters calls fn with the rules in the text of iptables-save -c.
// Without counters they are 0.
func parseCounters(text string, table Table, fn func(chain, rule string, packets uint64)) error {
	inside := false
	for text != "" {
		var line string
		line, text = cutLine(text)
		switch {
		case strings.HasPrefix(line, "*"):
			inside = line[1:] == string(table)
			continue
		case !inside || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ":") || line == "COMMIT":
			continue
		}
		packets, rule, err := counted(line)
		if err != nil {
			return fmt.Errorf("iptables-save -c of table %s: %q: %w", table, line, err)
		}
		chain, rule, _ := strings.Cut(strings.TrimPrefix(rule, "-A "), " ")
		fn(chain, rule, packets)
	}
	return nil
}

// counted splits "[packets:bytes] -A CHAIN RULE".
func counted(line string) (packets uint64, rule string, err error) {
	rest, ok := strings.CutPrefix(line, "[")
	if !ok {
		return 0, line, nil
	}
	number, rest, _ := strings.Cut(rest, ":")
	_, rule, ok = strings.Cut(rest, "] ")
	packets, err = strconv.ParseUint(number, 10, 64)
	if err == nil && !ok {
		err = strconv.ErrSyntax
	}
	return packets, rule, err
}

// Target is the chain or extension that a rule leads to, or "".
func Target(rule string) string { return target(rule) }
