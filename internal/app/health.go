package app

import (
	"strings"

	"github.com/kube-router/kube-router/internal/health"
)

// server is what answers for the agent. Its checks say in words what each
// controller still waits for.
func (a *agent) server() *health.Server {
	checks := map[string]health.Check{}
	for _, p := range a.parts {
		checks[p.name] = health.Once(p.controller.Ready(), func() string { return a.waiting(p) })
	}
	return health.NewServer(health.Options{
		HealthAddress: a.cfg.HealthAddress, Checks: checks,
		MetricsAddress: a.cfg.MetricsAddress, Metrics: a.metrics.Handler(), Log: a.log,
	})
}

// waiting says why a controller is not ready.
func (a *agent) waiting(p part) string {
	if lists := a.feeds.Waiting(); len(lists) > 0 {
		return "waiting for the API server's list of " + strings.Join(lists, ", ")
	}
	for _, work := range p.pending() {
		return work.String()
	}
	return "programming the kernel"
}
