package health

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kube-router/kube-router/internal/reconcile"
)

// AddObjects counts a controller's objects: desired, in the kernel as desired,
// and missing there. counts is called at each scrape.
func (m *Metrics) AddObjects(controller string, counts func() []reconcile.Count) {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(namespace+"_controller_"+name, help, []string{"kind"}, prometheus.Labels{"controller": controller})
	}
	desired := desc("desired_objects", "Objects that the cluster wants on this node.")
	programmed := desc("programmed_objects", "Objects that the kernel has as the cluster wants them.")
	missing := desc("missing_objects", "Objects that the kernel does not have as the cluster wants them: desired less programmed.")
	m.registry.MustRegister(together{[]*prometheus.Desc{desired, programmed, missing}, func(ch chan<- prometheus.Metric) {
		for _, c := range counts() {
			for desc, n := range map[*prometheus.Desc]int{desired: c.Desired, programmed: c.Programmed, missing: c.Desired - c.Programmed} {
				ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), c.Kind)
			}
		}
	}})
}

// AddPending tells what a controller has not done yet, and which kinds of work
// failed last. work is called at each scrape.
func (m *Metrics) AddPending(controller string, work func() []reconcile.Work) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(namespace+"_controller_"+name, help, labels, prometheus.Labels{"controller": controller})
	}
	pending := desc("pending", "What is to be done and is not done yet.")
	failed := desc("pending_errors", "What is to be done, failed last, and is tried again, by kind.", "kind")
	oldest := desc("oldest_pending_seconds", "For how long the oldest work that failed has not been done; 0 where none failed.")
	m.registry.MustRegister(together{[]*prometheus.Desc{pending, failed, oldest}, func(ch chan<- prometheus.Metric) {
		list := work()
		kinds, since := map[string]int{}, time.Time{}
		for _, w := range list {
			if w.Failed() {
				if kinds[w.Kind()]++; since.IsZero() || w.Since.Before(since) {
					since = w.Since
				}
			}
		}
		age := 0.0
		if !since.IsZero() {
			age = time.Since(since).Seconds()
		}
		ch <- prometheus.MustNewConstMetric(pending, prometheus.GaugeValue, float64(len(list)))
		ch <- prometheus.MustNewConstMetric(oldest, prometheus.GaugeValue, age)
		for kind, n := range kinds {
			ch <- prometheus.MustNewConstMetric(failed, prometheus.GaugeValue, float64(n), kind)
		}
	}})
}

// AddReady tells whether a controller has programmed everything once.
func (m *Metrics) AddReady(controller string, ready func() bool) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace:   namespace,
		Name:        "controller_ready",
		Help:        "Whether the controller has programmed everything once since the agent started.",
		ConstLabels: prometheus.Labels{"controller": controller},
	}, func() float64 {
		if ready() {
			return 1
		}
		return 0
	}))
}

// Mistake is advice that the agent gives: see package advice.
type Mistake struct{ Reason, Severity string }

// AddMistakes lists the mistakes that the agent noticed. given is called at
// each scrape.
func (m *Metrics) AddMistakes(given func() []Mistake) {
	noticed := prometheus.NewDesc(namespace+"_advice", "Mistakes that the agent noticed on this node; 'kube-router status' has the way out. Always 1.", []string{"reason", "severity"}, nil)
	m.registry.MustRegister(together{[]*prometheus.Desc{noticed}, func(ch chan<- prometheus.Metric) {
		for _, g := range given() {
			ch <- prometheus.MustNewConstMetric(noticed, prometheus.GaugeValue, 1, g.Reason, g.Severity)
		}
	}})
}

// together are metrics whose values are looked up at once when they are asked
// for.
type together struct {
	descs   []*prometheus.Desc
	collect func(chan<- prometheus.Metric)
}

func (t together) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range t.descs {
		ch <- d
	}
}

func (t together) Collect(ch chan<- prometheus.Metric) { t.collect(ch) }
