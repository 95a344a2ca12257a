package app

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/admin"
	"github.com/kube-router/kube-router/internal/health"
)

// retryEvery is how often something that the agent needs and that is not there
// is looked for again.
const retryEvery = 5 * time.Second

// retry calls open until it succeeds or ctx ends. What it waits for is in the
// answers of the agent meanwhile, and in the log when it changes.
func retry[T any](ctx context.Context, a *agent, what string, open func() (T, error)) (T, error) {
	waiting, said := "waiting for "+what, ""
	a.lacks.Store(&waiting)
	defer a.lacks.Store(nil)
	for {
		got, err := open()
		if err == nil {
			return got, nil
		}
		if err.Error() != said {
			said = err.Error()
			a.log.Error(waiting, "err", err)
			why := waiting + ": " + strings.ReplaceAll(said, "\n", "; ")
			a.lacks.Store(&why)
		}
		select {
		case <-ctx.Done():
			return got, context.Cause(ctx)
		case <-time.After(retryEvery):
		}
	}
}

// lacking says what no controller can begin without, and is empty where
// nothing is missing. Lists come last: they may wait for the same, or be seen
// to wait while something else does.
func (a *agent) lacking() string {
	if why := a.lacks.Load(); why != nil {
		return *why
	}
	if lists := a.feeds.Waiting(); len(lists) > 0 {
		return "waiting for the API server's list of " + strings.Join(lists, ", ")
	}
	return ""
}

// notBuilt is why there are no controllers yet.
func (a *agent) notBuilt() string { return cmp.Or(a.lacking(), "starting") }

// starting is the status until there are controllers.
func (a *agent) starting(context.Context) admin.Status {
	s := a.blankStatus()
	s.Wrong = append(s.Wrong, nothingYet+a.notBuilt())
	s.Advice = []admin.Advice{}
	runs := enabled(a.cfg)
	for _, name := range controllerNames {
		c := blankController(name)
		if slices.Contains(runs, name) {
			c.State, c.Reason = admin.Starting, a.notBuilt()
		}
		s.Controllers = append(s.Controllers, c)
	}
	return s
}

// checks are those of the health server: of a controller, or of the wait for
// what it is made of.
func (a *agent) checks() (alive, ready map[string]health.Check) {
	alive, ready = map[string]health.Check{}, map[string]health.Check{}
	for _, name := range enabled(a.cfg) {
		alive[name] = func() (bool, string) {
			if p, ok := a.part(name); ok {
				return a.alive(p)
			}
			return true, a.notBuilt()
		}
		ready[name] = func() (bool, string) {
			if p, ok := a.part(name); ok {
				return a.ready(p)
			}
			return false, a.notBuilt()
		}
	}
	return alive, ready
}

// part is a controller, once it is made.
func (a *agent) part(name string) (part, bool) {
	select {
	case <-a.built:
	default:
		return part{}, false
	}
	i := slices.IndexFunc(a.parts, func(p part) bool { return p.name == name })
	if i < 0 {
		return part{}, false
	}
	return a.parts[i], true
}
