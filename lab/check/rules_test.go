package check

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// healthy is what a node scrapes where all is well: series, and their values,
// one a minute for an hour.
func healthy() map[string]string {
	return map[string]string{
		`kube_daemonset_status_number_unavailable{namespace="kube-system",daemonset="kube-router"}`: "0x60",
		`kube_daemonset_status_number_unavailable{namespace="kube-system",daemonset="other"}`:       "1x60",
		`up{job="kube-router",node="n1"}`:                                                              "1x60",
		`process_start_time_seconds{job="kube-router",node="n1"}`:                                      "1000x60",
		`process_resident_memory_bytes{job="kube-router",node="n1"}`:                                   "40000000x60",
		`kube_router_build_info{version="v1",goversion="go1.26",node="n1"}`:                            "1x60",
		`kube_router_build_info{version="v1",goversion="go1.26",node="n2"}`:                            "1x60",
		`kube_router_controller_ready{controller="policy",node="n1"}`:                                  "1x60",
		`kube_router_service_proxy_ipvs_available{node="n1"}`:                                          "1x60",
		`kube_router_bgp_session_up{neighbor="10.0.0.2",node="n1"}`:                                    "1x60",
		`kube_router_controller_oldest_pending_seconds{controller="policy",node="n1"}`:                 "0x60",
		`kube_router_controller_repairs_total{controller="policy",node="n1"}`:                          "3x60",
		`kube_router_advice{reason="GracefulRestartOff",severity="note",node="n1"}`:                    "1x60",
		`kube_router_controller_api_to_kernel_seconds_bucket{controller="policy",le="1",node="n1"}`:    "0+100x60",
		`kube_router_controller_api_to_kernel_seconds_bucket{controller="policy",le="10",node="n1"}`:   "0+100x60",
		`kube_router_controller_api_to_kernel_seconds_bucket{controller="policy",le="+Inf",node="n1"}`: "0+100x60",
	}
}

// Prometheus itself evaluates the rules each minute over an hour of which the
// values are known: each alert fires when the manual says, and says where.
func TestAlertsFire(t *testing.T) {
	cases := []struct {
		name    string
		differs map[string]string // from what is healthy
		want    string            // the alerts, from which minute on, and their summaries
	}{
		{"all is well", nil, ""},
		{"a missed scrape", map[string]string{`up{job="kube-router",node="n1"}`: "1x10 0x2 1x48"}, ""},
		{"the agent does not answer", map[string]string{`up{job="kube-router",node="n1"}`: "1x9 0x50"},
			"KubeRouterDown 15m: kube-router on n1 does not answer"},
		{"a node has no agent", map[string]string{`kube_daemonset_status_number_unavailable{namespace="kube-system",daemonset="kube-router"}`: "0x9 2x50"},
			"KubeRouterMissing 25m: kube-router is missing or not ready on 2 of its nodes"},
		{"a rolling update", map[string]string{`kube_daemonset_status_number_unavailable{namespace="kube-system",daemonset="kube-router"}`: "0x9 1x12 0x39"}, ""},
		{"no agent at all", map[string]string{`up{job="kube-router",node="n1"}`: "1x9 _x50"},
			"KubeRouterAbsent 29m: Prometheus scrapes no kube-router"},
		{"not ready", map[string]string{`kube_router_controller_ready{controller="policy",node="n1"}`: "0x60"},
			"KubeRouterNotReady 5m: The controller policy on n1 has not programmed everything yet"},
		{"no IPVS", map[string]string{`kube_router_service_proxy_ipvs_available{node="n1"}`: "0x60"},
			"KubeRouterIPVSMissing 2m: The kernel of n1 has no IPVS, Services do not work there"},
		{"a peer is gone", map[string]string{`kube_router_bgp_session_up{neighbor="10.0.0.2",node="n1"}`: "0x60"},
			"KubeRouterBGPSessionDown 5m: No BGP session between n1 and 10.0.0.2"},
		{"something fails", map[string]string{`kube_router_controller_oldest_pending_seconds{controller="policy",node="n1"}`: "0+60x60"},
			"KubeRouterWorkFails 7m: Something has failed for 7m 0s in policy on n1"},
		{"changes are slow", map[string]string{`kube_router_controller_api_to_kernel_seconds_bucket{controller="policy",le="1",node="n1"}`: "0+50x60"},
			"KubeRouterSlow 16m: Changes take 9.82s to reach the kernel of n1 (policy)"},
		{"another one changes what is ours", map[string]string{`kube_router_controller_repairs_total{controller="policy",node="n1"}`: "0+1x60"},
			"KubeRouterRepairs 31m: Somebody changes what is kube-router's on n1 (policy)"},
		{"one repair", map[string]string{`kube_router_controller_repairs_total{controller="policy",node="n1"}`: "0x9 1x50"}, ""},
		{"a mistake that does harm", map[string]string{`kube_router_advice{reason="KubeProxyRunning",severity="warning",node="n1"}`: "1x60"},
			"KubeRouterAdvice 10m: kube-router on n1: KubeProxyRunning"},
		{"it begins anew", map[string]string{`process_start_time_seconds{job="kube-router",node="n1"}`: "1000+60x60"},
			"KubeRouterRestarts 4m: kube-router on n1 begins anew again and again"},
		{"memory", map[string]string{`process_resident_memory_bytes{job="kube-router",node="n1"}`: "262144000x60"},
			"KubeRouterMemory 15m: kube-router on n1 has 250MiB of memory"},
		{"two versions", map[string]string{`kube_router_build_info{version="v1",goversion="go1.26",node="n2"}`: "", `kube_router_build_info{version="v2",goversion="go1.26",node="n2"}`: "1x60"},
			"KubeRouterVersions 60m: There are 2 versions of kube-router in the cluster"},
	}
	fired := map[string]bool{}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			series := healthy()
			maps.Copy(series, c.differs)
			got := evaluate(t, series)
			if text := strings.Join(got, "\n"); text != c.want {
				t.Errorf("got\n%s\nwant\n%s", text, c.want)
			}
		})
		name, _, _ := strings.Cut(c.want, " ")
		fired[name] = true
	}
	for _, r := range alerts(t) {
		if !fired[r.Alert] {
			t.Errorf("no case lets %s fire", r.Alert)
		}
	}
}

// evaluate returns the alerts that fire within the hour, each once, with the
// minute in which it first does and its summary then.
func evaluate(t *testing.T, series map[string]string) []string {
	t.Helper()
	load := "load 1m\n"
	for _, s := range slices.Sorted(maps.Keys(series)) {
		if series[s] != "" {
			load += "  " + s + " " + series[s] + "\n"
		}
	}
	store := promqltest.LoadedStorage(t, load)
	engine := promqltest.NewTestEngine(t, false, 0, 100000)
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, store), AppendableV2: store, Queryable: store,
		Context: t.Context(), NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		ExternalURL: &url.URL{}, Logger: slog.New(slog.DiscardHandler), Parser: parser.NewParser(parser.Options{}),
	})
	groups, errs := manager.LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, filepath.Join(deploy, "monitoring", "alerts.yaml"))
	for _, err := range errs {
		t.Fatal(err)
	}
	var fired []string
	seen := map[string]bool{}
	for minute := range 61 {
		for _, group := range groups {
			group.Eval(t.Context(), time.Unix(0, 0).Add(time.Duration(minute)*time.Minute))
			for _, rule := range group.AlertingRules() {
				if err := rule.LastError(); err != nil {
					t.Errorf("%s: %v", rule.Name(), err)
				}
				for _, alert := range rule.ActiveAlerts() {
					id := alert.Labels.String()
					if alert.State != rules.StateFiring || seen[id] {
						continue
					}
					seen[id] = true
					fired = append(fired, fmt.Sprintf("%s %dm: %s", rule.Name(), minute, alert.Annotations.Get("summary")))
				}
			}
		}
	}
	return fired
}
