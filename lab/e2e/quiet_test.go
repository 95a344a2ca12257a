//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// At rest an agent says at most one line a minute.
func TestQuietAtRest(t *testing.T) {
	eventually(t, func(out string, err error) bool { return err == nil && !strings.Contains(out, "e2e-") },
		"kubectl get namespaces -o name") // of tests before this one
	const minutes = 1
	since := time.Now().UTC().Add(time.Second).Format(time.RFC3339)
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(minutes*time.Minute + time.Second): // what is measured is a time
	}
	for node := 1; node <= 3; node++ {
		pod := agentOf(t, node)
		out := must(t, "kubectl -n kube-system logs %s -c kube-router --since-time=%s", pod, since)
		lines := strings.Count(out+"\n", "\n")
		if out == "" {
			lines = 0
		}
		t.Logf("node%d: %d lines in %d minute", node, lines, minutes)
		if lines > minutes {
			t.Errorf("node%d:\n%s", node, out)
		}
		if all := must(t, "kubectl -n kube-system logs %s -c kube-router --tail=1", pod); all == "" {
			t.Errorf("node%d: its agent has never logged anything", node)
		}
	}
}
