package iptables

import (
	"slices"
	"strings"
)

// same says whether two rules mean the same: they are equal, or differ only in
// what the variants and versions of the tools print differently.
func same(a, b string) bool {
	return a == b || canonical(a) == canonical(b)
}

// sameRules says whether two chains hold the same rules in the same order.
func sameRules(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	if len(a) == 0 || &a[0] == &b[0] {
		return true
	}
	for i := range a {
		if !same(a[i], b[i]) {
			return false
		}
	}
	return true
}

// implied are the matches that "-p" loads on its own: some versions print them
// only where an option of theirs follows.
var implied = []string{"tcp", "udp", "sctp", "icmp", "icmp6"}

// protocols are other spellings of what "-p" takes.
var protocols = map[string]string{
	"6": "tcp", "17": "udp", "132": "sctp", "1": "icmp", "4": "ipencap", "41": "ipv6", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp",
}

// first are the options that the tools print before all matches, in order.
var first = []string{"-s", "-d", "-i", "-o", "-p"}

// canonical is a form that all prints of one rule have in common: words
// without quotes, addresses, interfaces and protocol first, the comment last,
// defaults left out. The order of matches is kept, since it can matter
// (-m limit counts what came so far).
func canonical(rule string) string {
	w := words(rule)
	head, rest := make([]string, len(first)), make([]string, 0, len(w))
	comment, not := "", ""
	for i := 0; i < len(w); i++ {
		option, value := w[i], ""
		if i+1 < len(w) {
			value = w[i+1]
		}
		spelled, several := spell(option, value)
		switch {
		case option == "!":
			not = "! "
			continue
		case option == "-m" && (value == "comment" || slices.Contains(implied, value)):
			i++
		case option == "--comment":
			comment = value
			i++
		case option == "--ipvs" && not == "": // said by "-m ipvs" and any other option of it
		case isDefault(option, value):
			i++
		case slices.Contains(first, option):
			head[slices.Index(first, option)] = not + spelled
			i++
		case several:
			rest = append(rest, not+option, spelled)
			i++
		default:
			rest = append(rest, not+option)
		}
		not = ""
	}
	return strings.Join(append(append(head, rest...), comment), "\x00")
}

// isDefault recognises options that mean what their absence does.
func isDefault(option, value string) bool {
	switch option {
	case "--limit-burst":
		return value == "5"
	case "--reject-with":
		return value == "icmp-port-unreachable" || value == "icmp6-port-unreachable"
	case "-i", "-o":
		return value == "+"
	}
	return false
}

// spell is the one spelling of an option's value; ok says that the option is
// one of those that have several.
func spell(option, value string) (spelled string, ok bool) {
	switch option {
	case "-i", "-o":
		return value, true
	case "-s", "-d", "--vaddr", "--ctorigsrc", "--ctorigdst", "--ctreplsrc", "--ctrepldst":
		bare, _ := strings.CutSuffix(value, "/32")
		bare, _ = strings.CutSuffix(bare, "/128")
		return bare, true
	case "-p":
		if name, ok := protocols[value]; ok {
			return name, true
		}
		return strings.ToLower(value), true
	case "--ctstate":
		states := strings.Split(value, ",")
		slices.Sort(states)
		return strings.Join(states, ","), true
	case "--set-xmark":
		return strings.TrimSuffix(value, "/0xffffffff"), true
	case "--limit":
		number, unit, _ := strings.Cut(value, "/")
		for _, short := range []string{"sec", "min", "hour", "day"} {
			if unit != "" && strings.HasPrefix(short, unit[:1]) {
				unit = short
			}
		}
		return number + "/" + unit, true
	}
	return "", false
}
