package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// listed is what List and Counts return, as text.
func (w *world) listed() string {
	var b strings.Builder
	for _, c := range w.c.Counts() {
		fmt.Fprintf(&b, "%d of %d %s\n", c.Programmed, c.Desired, c.Kind)
	}
	for _, l := range w.c.List() {
		fmt.Fprintf(&b, "%s ingress %t egress %t pods %v refused %q", l.Key, l.Ingress, l.Egress, l.Pods, l.Refused)
		if l.Pending != nil {
			fmt.Fprintf(&b, " pending %v", l.Pending.Err)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (w *world) lists(t *testing.T, when, want string) {
	t.Helper()
	if d := cmp.Diff(trim(want)+"\n", w.listed()); d != "" {
		t.Errorf("%s (-want +got):\n%s", when, d)
	}
}

// What is listed is what this node has to enforce, and what of it is in force.
func TestList(t *testing.T) {
	w := newWorld()
	landed := 0
	w.c.config.Landed = func(time.Duration) { landed++ }
	w.c.queue.Landed = w.c.landed
	w.namespace(newNamespace("red", ""))
	w.pod(newPod("red", "web", "node1", "10.244.1.7", "app=web"))
	w.pod(newPod("red", "far", "node2", "10.244.2.7", "app=web"))
	w.policy(denyIngress("red"))
	empty := denyIngress("blue")
	empty.Problems = []string{"the port is no port"}
	w.policy(empty)
	w.lists(t, "before the first fill", `
		0 of 2 policies
		0 of 1 pods
		blue/deny ingress true egress false pods [] refused ["the port is no port"]
		red/deny ingress true egress false pods [red/web] refused []`)
	w.settle(t)
	w.lists(t, "then", `
		2 of 2 policies
		1 of 1 pods
		blue/deny ingress true egress false pods [] refused ["the port is no port"]
		red/deny ingress true egress false pods [red/web] refused []`)
	if landed != 0 {
		t.Errorf("%d changes landed before one came", landed)
	}
	w.rules.Fail = func(string) error { return errors.New("locked") }
	egress := denyIngress("red")
	egress.IsolatesEgress = true
	w.policy(egress)
	if err := w.work(); err == nil {
		t.Fatal("the kernel does not refuse")
	}
	if got := w.listed(); !strings.Contains(got, "1 of 2 policies") || !strings.Contains(got, "pending ") || !strings.Contains(got, "locked") {
		t.Errorf("refused:\n%s", got)
	}
	w.rules.Fail = nil
	w.settle(t)
	w.lists(t, "in the end", `
		2 of 2 policies
		1 of 1 pods
		blue/deny ingress true egress false pods [] refused ["the port is no port"]
		red/deny ingress true egress true pods [red/web] refused []`)
	if landed != 1 {
		t.Errorf("%d changes landed, want 1", landed)
	}
	if len(w.c.Sets()) == 0 || !w.c.Sets()[0].Programmed {
		t.Errorf("sets: %+v", w.c.Sets())
	}
}
