package config

import (
	"fmt"
	"testing"
	"time"
)

// The default range is what many clusters have, and Pods of others are in it.
func TestKnownRanges(t *testing.T) {
	for flag, want := range map[string]string{
		"--service-cluster-ip-range=10.96.0.0/12": "[10.96.0.0/12]",
		"--service-cluster-ip-range=10.43.0.0/16": "[10.43.0.0/16]",
		"--enable-ipv4=true":                      "[]",
	} {
		c, err := Parse([]string{flag}, onNode1)
		if got := fmt.Sprint(c.Services.KnownRanges()); got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", flag, got, err, want)
		}
	}
}

// What the kernel would refuse, the flag does, before anything is programmed.
func TestTimeoutsOfConnections(t *testing.T) {
	for _, flag := range []string{"--service-tcp-timeout", "--service-tcpfin-timeout", "--service-udp-timeout"} {
		for value, problem := range map[string]string{
			"596h31m23s": "",
			"0s":         "",
			"596h31m24s": "longer than the kernel can wait; allowed are 0s to 596h31m23s",
			"87600h":     "longer than the kernel can wait; allowed are 0s to 596h31m23s",
			"-1s":        "too short; allowed is 0s or more",
			"soon":       "not a duration; allowed is a number with a unit, such as 30s or 5m",
		} {
			arg, got := flag+"="+value, ""
			_, err := Parse([]string{arg}, onNode1)
			if err != nil {
				got = err.Error()
			}
			if problem != "" {
				problem = arg + ": " + problem
			}
			if got != problem {
				t.Errorf("got  %s\nwant %s", got, problem)
			}
		}
	}
	c, err := Parse([]string{"--service-udp-timeout=500ms"}, onNode1)
	if err != nil || c.Services.UDPTimeout != 500*time.Millisecond {
		t.Errorf("%v, %v", c.Services.UDPTimeout, err)
	}
}
