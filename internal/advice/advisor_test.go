package advice

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
)

// world is what an Advisor sees and says.
type world struct {
	*Advisor
	mu     sync.Mutex
	facts  Facts
	node   *cluster.Meta
	looks  int
	events []string
	log    strings.Builder
}

func newWorld(f Facts) *world {
	w := &world{facts: f, node: &cluster.Meta{Key: cluster.Key{Name: "node1"}, UID: "u1"}}
	look := func(context.Context) Facts {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.looks++
		return w.facts
	}
	w.Advisor = NewAdvisor(look, func() *cluster.Meta { return w.node }, w, slog.New(slog.NewTextHandler(&w.log, nil)))
	return w
}

func (w *world) Warn(kind string, object *cluster.Meta, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("%s %s: %s", kind, object.Name, reason))
}

func (w *world) Mended(kind string, object *cluster.Meta, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("%s %s: %s is over", kind, object.Name, reason))
}

func (w *world) set(f Facts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.facts = f
}

func (w *world) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.events, want) {
		t.Errorf("%s: events %q, want %q", when, w.events, want)
	}
	w.events = nil
}

// A note is told once, a warning each hour, and what is over is over.
func TestAdvisorReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := right()
		wrong.NoGracefulRestart = true
		wrong.NoIPVS = true
		w := newWorld(wrong)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(begin)
		synctest.Wait()
		w.expect(t, "soon", "Node node1: IPVSMissing", "Node node1: GracefulRestartOff")
		time.Sleep(59 * time.Minute)
		w.expect(t, "within the hour")
		time.Sleep(2 * time.Minute)
		w.expect(t, "after an hour", "Node node1: IPVSMissing")
		w.set(right())
		time.Sleep(period)
		if got := w.Last(); len(got) > 0 || strings.Count(w.log.String(), "no longer needed") != 2 {
			t.Errorf("mended: %v\n%s", got, w.log.String())
		}
		slices.Sort(w.events)
		w.expect(t, "mended", "Node node1: GracefulRestartOff is over", "Node node1: IPVSMissing is over")
		w.set(wrong)
		time.Sleep(period)
		w.expect(t, "once more", "Node node1: IPVSMissing", "Node node1: GracefulRestartOff")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Who mended something and asks sees it, but asking often costs nothing.
func TestAdvisorLooksForWhoAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := right()
		wrong.NoGracefulRestart = true
		w := newWorld(wrong)
		begin := time.Now()
		for range 10 {
			if got := w.Given(t.Context()); len(got) != 1 || !got[0].Since.Equal(begin) {
				t.Fatalf("got %v", got)
			}
		}
		time.Sleep(time.Minute)
		if got := w.Given(t.Context()); len(got) != 1 || !got[0].Since.Equal(begin) {
			t.Errorf("a minute later: %v", got)
		}
		if w.looks != 2 {
			t.Errorf("looked %d times, want 2", w.looks)
		}
	})
}

// As long as the Node is not known, there is nothing to put an Event on.
func TestAdvisorWaitsForTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := right()
		wrong.NoGracefulRestart = true
		w := newWorld(wrong)
		node := w.node
		w.node = nil
		w.look(t.Context())
		w.expect(t, "without a Node")
		w.node = node
		w.look(t.Context())
		w.expect(t, "with it", "Node node1: GracefulRestartOff")
	})
}

// An agent that ends does not take advice back that it could not look after.
func TestAdvisorAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrong := right()
		wrong.NoGracefulRestart = true
		w := newWorld(wrong)
		w.look(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.set(right())
		w.look(ctx)
		if len(w.Last()) != 1 {
			t.Error("the advice is gone")
		}
	})
}
