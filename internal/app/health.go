package app

import (
	"fmt"
	"time"

	"github.com/kube-router/kube-router/internal/health"
)

// hangs is how long a controller may work on one round of changes. The first
// fill of a large cluster takes seconds.
const hangs = 3 * time.Minute

// server is what answers for the agent. Its checks say in words what each
// controller does, and what it still waits for.
func (a *agent) server() *health.Server {
	alive, ready := a.checks()
	return health.NewServer(health.Options{
		HealthAddress: a.cfg.HealthAddress, Alive: alive, Ready: ready,
		MetricsAddress: a.cfg.MetricsAddress, MetricsPath: a.cfg.MetricsPath, Metrics: a.metrics.Handler(),
		ProfilesAddress: a.cfg.ProfilesAddress, Log: a.log,
	})
}

// alive says whether a controller works. What it waits for, the API server
// above all, does not end it: that is no reason to start anew.
func (a *agent) alive(p part) (bool, string) {
	since := p.Progress().Busy
	switch took := time.Since(since); {
	case since.IsZero() && p.ready():
		return true, "waits for changes"
	case since.IsZero():
		return true, a.waiting(p)
	case took < hangs:
		return true, fmt.Sprintf("works since %s", took.Round(time.Second))
	default:
		return false, fmt.Sprintf("hangs: has worked for %s on what takes seconds; started anew, it goes on from what the kernel has", took.Round(time.Second))
	}
}

// ready says whether a controller has programmed everything once, and what is
// wrong since.
func (a *agent) ready(p part) (bool, string) {
	if !p.ready() {
		return false, a.waiting(p)
	}
	failed, first := 0, ""
	for _, w := range p.Work() {
		if w.Failed() {
			if failed++; failed == 1 {
				first = w.String()
			}
		}
	}
	if failed > 0 {
		return true, fmt.Sprintf("ready, but %d not done, tried again: %s", failed, first)
	}
	return true, "ready"
}

// waiting says why a controller is not ready.
func (a *agent) waiting(p part) string {
	if lacking := a.lacking(); lacking != "" {
		return lacking
	}
	for _, work := range p.Work() {
		return work.String()
	}
	return "programming the kernel"
}

// ready says whether a part has programmed everything once.
func (p part) ready() bool {
	select {
	case <-p.Ready():
		return true
	default:
		return false
	}
}
