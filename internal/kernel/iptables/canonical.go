package iptables

import "strings"

// same says whether two rules mean the same: they are equal, or differ only in
// what the variants and versions of the tools print differently.
func same(a, b string) bool {
	return a == b || canonical(a) == canonical(b)
}

// canonical is a form that all prints of one rule have in common.
func canonical(rule string) string {
	return strings.Join(words(rule), "\x00")
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
