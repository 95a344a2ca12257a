package config

import "testing"

// The default range is what many clusters have, and Pods of others are in it.
func TestKnownRanges(t *testing.T) {
	for flag, want := range map[string]string{
		"--service-cluster-ip-range=10.96.0.0/12": "10.96.0.0/12",
		"--service-cluster-ip-range=10.43.0.0/16": "10.43.0.0/16",
		"--enable-ipv4=true":                      "",
	} {
		c, err := Parse([]string{flag}, onNode1)
		if got := formatPrefixes(c.Services.KnownRanges()); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", flag, got, err, want)
		}
	}
}
