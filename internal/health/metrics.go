package health

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kube-router/kube-router/internal/reconcile"
)

// namespace begins every name of a metric.
const namespace = "kube_router"

// The bounds on scrapes: each reads the kernel.
const (
	mostScrapes   = 4
	scrapeTimeout = 10 * time.Second
)

// Metrics are the agent's Prometheus metrics. What a controller that does not
// run would have is not listed: the app asks for each with its Add method.
type Metrics struct {
	registry *prometheus.Registry
	syncs    *prometheus.HistogramVec
	landings *prometheus.HistogramVec
	log      *slog.Logger
}

// NewMetrics returns the metrics that every agent has.
func NewMetrics(version string, log *slog.Logger) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), log: log}
	m.syncs = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace,
		Name:      "controller_sync_duration_seconds",
		Help:      "How long a controller took to bring the kernel to the desired state.",
		Buckets:   []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"controller"})
	m.landings = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace,
		Name:      "controller_api_to_kernel_seconds",
		Help:      "How long a change took to reach the kernel, from when the agent heard of it.",
		Buckets:   []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
	}, []string{"controller"})
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace:   namespace,
		Name:        "build_info",
		Help:        "The version of this agent and of the Go that built it; always 1.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(m.syncs, m.landings, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// ObserveSync notes that a controller brought the kernel to the desired state,
// and how long that took.
func (m *Metrics) ObserveSync(controller string, took time.Duration) {
	m.syncs.WithLabelValues(controller).Observe(took.Seconds())
}

// LandingObserver returns what notes how long a change took to reach the
// kernel. It is cheap: there may be thousands at once.
func (m *Metrics) LandingObserver(controller string) func(time.Duration) {
	observer := m.landings.WithLabelValues(controller)
	return func(took time.Duration) { observer.Observe(took.Seconds()) }
}

// AddBGPSessions lists the BGP sessions. sessions is called at each scrape; it
// says of each neighbor's address whether the session is established.
func (m *Metrics) AddBGPSessions(sessions func() map[string]bool) {
	up := prometheus.NewDesc(namespace+"_bgp_session_up", "Whether the BGP session with a neighbor is established.", []string{"neighbor"}, nil)
	m.registry.MustRegister(atScrape{up, func(ch chan<- prometheus.Metric) {
		for neighbor, established := range sessions() {
			value := 0.0
			if established {
				value = 1
			}
			ch <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, value, neighbor)
		}
	}})
}

// AddIPVSConnections counts the connections that IPVS has scheduled.
// connections is called at each scrape. Where it fails the metric is left out,
// and the log says so once for each reason.
func (m *Metrics) AddIPVSConnections(connections func() (uint64, error)) {
	complain := m.complainer("IPVS does not tell its connections")
	total := prometheus.NewDesc(namespace+"_service_proxy_ipvs_connections_total", "Connections that IPVS has scheduled to endpoints, over all virtual servers.", nil, nil)
	m.registry.MustRegister(atScrape{total, func(ch chan<- prometheus.Metric) {
		n, err := connections()
		if complain(err); err != nil {
			return
		}
		ch <- prometheus.MustNewConstMetric(total, prometheus.CounterValue, float64(n))
	}})
}

// AddRuleCount tells the number of iptables rules of the policy controller.
// count is called at each scrape.
//
// The name is an established one that dashboards use, although the number can
// fall and Prometheus keeps the suffix _total for counters.
func (m *Metrics) AddRuleCount(count func() int) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace,
		Name:      "firewall_iptables_rules_total",
		Help:      "iptables rules that enforce NetworkPolicies on this node, at present.",
	}, func() float64 { return float64(count()) }))
}

// AddRepairs counts what a controller found other than it should be in the
// kernel when it read it back, and repaired. count is called at each scrape.
func (m *Metrics) AddRepairs(controller string, count func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace:   namespace,
		Name:        "controller_repairs_total",
		Help:        "Objects of the kernel that somebody else had changed and that were repaired.",
		ConstLabels: prometheus.Labels{"controller": controller},
	}, func() float64 { return float64(count()) }))
}

// PolicyDrops are the packets that were denied in a direction ("ingress" or
// "egress") while a policy isolated the Pod.
type PolicyDrops struct {
	Namespace, Policy, Direction string
	Packets                      uint64
}

// Drops are all packets that were denied: by policies, those of Pods that were
// closed because the node did not know them yet, and those that went past Pods'
// own addresses.
type Drops struct {
	Policies        []PolicyDrops
	NewPods, Strays uint64
}

// AddPolicyDrops counts the packets that were denied. drops is called at each
// scrape. Where it fails the metrics are left out, and the log says so once for
// each reason.
func (m *Metrics) AddPolicyDrops(drops func(context.Context) (Drops, error)) {
	denied := prometheus.NewDesc(namespace+"_policy_dropped_packets_total",
		"Packets of new connections that were dropped while the policy isolated the pod and no policy allowed them.", []string{"namespace", "policy", "direction"}, nil)
	closed := prometheus.NewDesc(namespace+"_policy_new_pod_dropped_packets_total",
		"Packets from and to pods that were dropped because this node did not know the pod yet.", nil, nil)
	strays := prometheus.NewDesc(namespace+"_policy_bridge_dropped_packets_total",
		"Packets of pods on a bridge, to each other and to their node, that were dropped because they went past the pods' own addresses.", nil, nil)
	complain := m.complainer("packets that policies denied cannot be counted")
	m.registry.MustRegister(together{[]*prometheus.Desc{denied, closed, strays}, func(ch chan<- prometheus.Metric) {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout/2)
		defer cancel()
		all, err := drops(ctx)
		if complain(err); err != nil {
			return
		}
		for _, d := range all.Policies {
			ch <- prometheus.MustNewConstMetric(denied, prometheus.CounterValue, float64(d.Packets), d.Namespace, d.Policy, d.Direction)
		}
		ch <- prometheus.MustNewConstMetric(closed, prometheus.CounterValue, float64(all.NewPods))
		ch <- prometheus.MustNewConstMetric(strays, prometheus.CounterValue, float64(all.Strays))
	}})
}

// complainer returns what logs the failures of a metric, once for each reason:
// scrapes come every few seconds. Scrapes may call it at a time.
func (m *Metrics) complainer(what string) func(error) {
	var mu sync.Mutex
	complaints := reconcile.Complaints{}
	return func(err error) {
		mu.Lock()
		began, _ := complaints.Change(what, err)
		mu.Unlock()
		if began {
			m.log.Warn("metrics: "+what, "err", err)
		}
	}
}

// AddFlowsCut counts the established flows that were cut because no policy
// allows them any more. count is called at each scrape.
func (m *Metrics) AddFlowsCut(count func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace,
		Name:      "policy_flows_cut_total",
		Help:      "Established flows that were cut because the policies do not allow them any more.",
	}, func() float64 { return float64(count()) }))
}

// AddServiceProxy tells what the service proxy does. state is called at each
// scrape: whether the kernel has IPVS, and how many virtual servers are wanted.
func (m *Metrics) AddServiceProxy(state func() (ipvs bool, virtualServers int)) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value))
	}
	gauge("service_proxy_ipvs_available", "Whether the kernel has IPVS; Services do not work on this node where it is 0.", func() float64 {
		if ipvs, _ := state(); ipvs {
			return 1
		}
		return 0
	})
	gauge("service_proxy_virtual_servers", "IPVS virtual servers that the cluster's Services want on this node.", func() float64 {
		_, n := state()
		return float64(n)
	})
}

// Describe tells the names and labels of all metrics, also of those that have
// no series yet.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) { m.registry.Describe(ch) }

// Handler answers scrapes. A metric that cannot be had is logged and left out;
// the others are given.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            scrapeLog{m.log},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: mostScrapes,
		Timeout:             scrapeTimeout,
	})
}

// scrapeLog takes what promhttp complains of. That an answer could not be sent is
// said of each metric, whenever whoever asked has hung up: nothing is wrong here.
type scrapeLog struct{ log *slog.Logger }

// Println implements promhttp.Logger.
func (l scrapeLog) Println(words ...any) {
	text := strings.TrimSpace(fmt.Sprintln(words...))
	if strings.HasPrefix(text, "error encoding and sending") {
		l.log.Debug("metrics: " + text)
		return
	}
	l.log.Warn("metrics: " + text)
}

// atScrape is a metric whose values are looked up when they are asked for.
type atScrape struct {
	desc    *prometheus.Desc
	collect func(chan<- prometheus.Metric)
}

func (a atScrape) Describe(ch chan<- *prometheus.Desc) { ch <- a.desc }
func (a atScrape) Collect(ch chan<- prometheus.Metric) { a.collect(ch) }
