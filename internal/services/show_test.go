package services

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// listed is what List returns, as text.
func (r *running) listed() string {
	var b strings.Builder
	for _, l := range r.List() {
		fmt.Fprintf(&b, "%s\n", l.Key)
		for _, s := range l.Servers {
			fmt.Fprintf(&b, "  %s %s %v\n", s.ID, s.Scheduler, s.Endpoints())
		}
		for _, refused := range l.Refused {
			fmt.Fprintf(&b, "  refused: %s\n", refused)
		}
		if l.Pending != nil {
			fmt.Fprintf(&b, "  pending: %s\n", l.Pending)
		}
	}
	return b.String()
}

func (r *running) counts() string {
	var parts []string
	for _, c := range r.Counts() {
		parts = append(parts, fmt.Sprintf("%d of %d %s", c.Programmed, c.Desired, c.Kind))
	}
	return strings.Join(parts, ", ")
}

// What is listed is what the kernel is to have, with what of it failed.
func TestList(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		odd := annotated(service("odd", "10.96.0.11", tcp(80, 0)), "service.scheduler", "best")
		r := w.start(config4(), set(web, webSlice, odd))
		defer r.stop()
		expect := func(when, list, counts string) {
			t.Helper()
			if d := cmp.Diff(strings.TrimPrefix(list, "\n"), r.listed()); d != "" {
				t.Errorf("%s (-want +got):\n%s", when, d)
			}
			if got := r.counts(); got != counts {
				t.Errorf("%s: %s, want %s", when, got, counts)
			}
		}
		expect("without its node", "", "0 of 2 services, 0 of 0 virtual_servers")
		w.fail(failures{ipvs: func(c ipvs.Change) error {
			if c.ID.Addr.Addr().String() == "10.96.0.11" {
				return errors.New("no memory")
			}
			return nil
		}})
		r.happen(set(n1))
		r.happen(set(slice("odd", 8080, ready("10.244.1.9", "n1"))))
		if got := r.counts(); !strings.HasPrefix(got, "1 of 2 services, ") {
			t.Errorf("one fails: %s", got)
		}
		if got := r.listed(); !strings.Contains(got, "default/odd\n") || !strings.Contains(got, "no memory") || !strings.Contains(got, `"best" is not one of`) {
			t.Errorf("one fails:\n%s", got)
		}
		w.fail(failures{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.counts(); !strings.HasPrefix(got, "2 of 2 services, ") || strings.Contains(r.listed(), "pending") {
			t.Errorf("after all: %s\n%s", got, r.listed())
		}
		if p := r.Progress(); !p.Busy.IsZero() || p.Last.IsZero() {
			t.Errorf("at rest: %+v", p)
		}
	})
}

// How long a change took counts the tries that failed, and nothing that did not
// reach the kernel.
func TestLanded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var landed []time.Duration
		config := config4()
		config.Landed = func(took time.Duration) { landed = append(landed, took.Round(time.Second)) }
		r := w.start(config, set(web, webSlice))
		defer r.stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(landed) > 0 {
			t.Errorf("without its node: %v", landed)
		}
		r.happen(set(n1))
		if len(landed) != 1 || landed[0] != 0 {
			t.Errorf("first fill: %v, want [0s]", landed)
		}
		landed = nil
		w.fail(failures{ipvs: func(ipvs.Change) error { return errors.New("no memory") }})
		r.happen(set(service("other", "10.96.0.12", tcp(80, 0)), slice("other", 8080, ready("10.244.1.9", "n1"))))
		time.Sleep(10 * time.Second)
		w.fail(failures{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(landed) != 1 || landed[0] < 10*time.Second {
			t.Errorf("a change that failed for 10s: %v", landed)
		}
	})
}
