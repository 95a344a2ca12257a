package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/admin"
)

// However much there is, it is one screen.
func TestScreenIsOneScreen(t *testing.T) {
	s := ill()
	for range 60 {
		s.Peers = append(s.Peers, s.Peers[1])
		s.Wrong = append(s.Wrong, s.Wrong[0])
		s.Advice = append(s.Advice, admin.Advice{Reason: "GracefulRestartOff", Severity: "note", Since: now, Message: strings.Repeat("it is better on ", 12)})
		s.Controllers[1].Pending = append(s.Controllers[1].Pending, s.Controllers[1].Pending[0])
	}
	slices.Reverse(s.Advice) // the warning is last
	s.Peers[2].Node = strings.Repeat("long-", 40)
	s.Wrong[0] = strings.Repeat("very wrong ", 100)
	s.Controllers[1].Pending[0].Reason = strings.Repeat("long story ", 100)
	s.Controllers[1].PendingCount = 5000
	got := (&command{now: now}).screen(s)
	lines := strings.Split(got, "\n")
	if len(lines) > 50 {
		t.Errorf("%d lines:\n%s", len(lines), got)
	}
	expectNarrow(t, got)
	for _, want := range []string{"and 56 more: kube-router show peers", "and 4996 more: kube-router status -o json", "\nADVICE\nKubeProxyRunning (warning", "and 60 more: kube-router status -o json"} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %q in\n%s", want, got)
		}
	}
}

// Advice fills what is left of the screen.
func TestAdviceFillsTheScreen(t *testing.T) {
	s := well()
	for range 60 {
		s.Advice = append(s.Advice, admin.Advice{Reason: "GracefulRestartOff", Severity: "note", Since: now, Message: "set it"})
	}
	got := (&command{now: now}).screen(s)
	if n := strings.Count(got, "\n"); n != mostLines && n != mostLines-1 || !strings.HasSuffix(got, "\nand 44 more: kube-router status -o json\n") {
		t.Errorf("%d lines:\n%s", n, got)
	}
	s.Advice = s.Advice[:5]
	if got := (&command{now: now}).screen(s); strings.Count(got, "set it") != 5 || strings.Contains(got, "more") {
		t.Errorf("five pieces of advice:\n%s", got)
	}
}
