package advice

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
)

// The pace. The facts cost a read of the connections and a run of
// iptables-save.
const (
	// begin is when the first look is due: by then the controllers have tried
	// everything once.
	begin  = 10 * time.Second
	period = 5 * time.Minute
	// fresh is how old the facts may be that somebody looks at.
	fresh = 15 * time.Second
	// repeat is after what time a warning that still holds is reported again:
	// the API server keeps Events for an hour.
	repeat = time.Hour
)

// Given is Advice that holds, and since when.
type Given struct {
	Advice
	Since time.Time
}

// Reporter is a cluster.Reporter that can be told what is over, so that it is
// reported again as soon as it comes back.
type Reporter interface {
	cluster.Reporter
	Mended(kind string, object *cluster.Meta, reason string)
}

// Advisor looks at the facts from time to time and reports what is wrong.
type Advisor struct {
	facts  func(context.Context) Facts
	node   func() *cluster.Meta
	events Reporter
	log    *slog.Logger

	// checking is held during a look.
	checking sync.Mutex
	mu       sync.Mutex
	given    []Given
	reported map[string]time.Time // by Reason
	looked   time.Time
}

// NewAdvisor returns an Advisor that Run runs. facts gathers the facts; node is
// this Node's Meta, nil while it is not known.
func NewAdvisor(facts func(context.Context) Facts, node func() *cluster.Meta, events Reporter, log *slog.Logger) *Advisor {
	return &Advisor{facts: facts, node: node, events: events, log: log, reported: map[string]time.Time{}}
}

// Run looks soon and then each period, until ctx ends.
func (a *Advisor) Run(ctx context.Context) error {
	next := time.NewTimer(begin)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
		a.look(ctx)
		next.Reset(period)
	}
}

// Given returns what holds now: the facts are looked at again where they are
// older than a few seconds, so that who mended something sees it.
func (a *Advisor) Given(ctx context.Context) []Given {
	a.mu.Lock()
	stale := time.Since(a.looked) > fresh
	a.mu.Unlock()
	if stale {
		a.look(ctx)
	}
	return a.Last()
}

// Last returns what held when last looked at.
func (a *Advisor) Last() []Given {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Given(nil), a.given...)
}

// look gathers the facts, checks them and reports what is new.
func (a *Advisor) look(ctx context.Context) {
	a.checking.Lock()
	defer a.checking.Unlock()
	found := Check(a.facts(ctx))
	if ctx.Err() != nil {
		return // facts that could not be gathered are none
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	before := map[string]Given{}
	for _, g := range a.given {
		before[g.Reason] = g
	}
	a.looked, a.given = now, nil
	for _, f := range found {
		since := now
		if g, ok := before[f.Reason]; ok {
			since = g.Since
		}
		delete(before, f.Reason)
		a.given = append(a.given, Given{f, since})
		a.report(f, now)
	}
	for reason := range before {
		delete(a.reported, reason)
		if node := a.node(); node != nil {
			a.events.Mended("Node", node, reason)
		}
		a.log.Info("advice: no longer needed", "reason", reason)
	}
}

// report makes an Event on the Node, with its line in the log: once for a note,
// and each hour for a warning. The caller holds the lock.
func (a *Advisor) report(f Advice, now time.Time) {
	at, done := a.reported[f.Reason]
	if done && (f.Severity == Note || now.Sub(at) < repeat) {
		return
	}
	if node := a.node(); node != nil {
		a.events.Warn("Node", node, f.Reason, f.Message)
		a.reported[f.Reason] = now
	}
}
