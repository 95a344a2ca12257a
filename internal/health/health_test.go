package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/kube-router/kube-router/internal/reconcile"
)

// logged is a log to look into.
type logged struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *logged) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buffer.String(), words)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// freeAddress is an address that nothing listens on.
func freeAddress(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run runs a server until the test ends.
func run(t *testing.T, o Options) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- NewServer(o).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// get waits until something answers, and returns status and body.
func get(t *testing.T, address, path string) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			continue
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return fmt.Sprintf("%d %s", response.StatusCode, body)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			var programmed, hangs atomic.Bool
			address := freeAddress(t, host)
			well := func() (bool, string) { return true, "at work" }
			when := func(b *atomic.Bool, words string) Check {
				return func() (bool, string) {
					if b.Load() {
						return true, "ready"
					}
					return false, words
				}
			}
			run(t, Options{HealthAddress: address, Log: new(logged).logger(),
				Alive: map[string]Check{"services": well, "routes": func() (bool, string) { return !hangs.Load(), "busy" }},
				Ready: map[string]Check{"services": well, "routes": when(&programmed, "waiting for the node's pod CIDR")},
			})
			expect := func(path, want string) {
				t.Helper()
				if got := get(t, address, path); got != want {
					t.Errorf("%s: got %q, want %q", path, got, want)
				}
			}
			expect("/healthz", "200 ok\nroutes: busy\nservices: at work\n")
			expect("/readyz", "503 not ok\nroutes: waiting for the node's pod CIDR\nservices: at work\n")
			programmed.Store(true)
			expect("/readyz", "200 ok\nroutes: ready\nservices: at work\n")
			hangs.Store(true)
			expect("/healthz", "503 not ok\nroutes: busy\nservices: at work\n")
			// The metrics have an address of their own.
			expect("/metrics", "404 404 page not found\n")
		})
	}
}

// A port that is taken is waited for: one line then, and one when it is free.
func TestPortTaken(t *testing.T) {
	holder, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	run(t, Options{HealthAddress: holder.Addr().String(), Log: log.logger()})
	for deadline := time.Now().Add(10 * time.Second); log.count("--health-port set another address") == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the failure is not logged")
		}
	}
	holder.Close()
	if got := get(t, holder.Addr().String(), "/healthz"); got != "200 ok\n" {
		t.Errorf("got %q", got)
	}
	if log.count("cannot listen") != 1 || log.count("health server listens now") != 1 {
		t.Errorf("log:\n%s", log.buffer.String())
	}
}

// Profiles are to be had where they are asked for, and nothing else is there.
func TestProfiles(t *testing.T) {
	address := freeAddress(t, "127.0.0.1")
	run(t, Options{ProfilesAddress: address, Log: new(logged).logger()})
	if got := get(t, address, "/debug/pprof/goroutine?debug=1"); !strings.HasPrefix(got, "200 goroutine profile: total") {
		t.Errorf("got %.60q", got)
	}
	if got := get(t, address, "/metrics"); !strings.HasPrefix(got, "404 ") {
		t.Errorf("got %.60q", got)
	}
}

func TestNothingIsServedWithoutAddresses(t *testing.T) {
	if err := NewServer(Options{Log: new(logged).logger()}).Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// pending is work of which some failed.
var pending = []reconcile.Work{
	{What: "sweep", Err: reconcile.ErrWaiting},
	{What: "service default/web", Err: errors.New("busy"), Since: time.Now().Add(-time.Hour)},
	{What: "service default/db", Err: errors.New("busy"), Since: time.Now().Add(-time.Minute)},
	{What: "iptables", Err: errors.New("locked"), Since: time.Now()},
	{What: "service default/new"},
}

// all are the metrics of an agent with all controllers.
func all(log *slog.Logger) *Metrics {
	m := NewMetrics("v3.0.0", log)
	m.AddBGPSessions(func() map[string]bool { return map[string]bool{"192.168.1.11": true, "fd00::b": false} })
	m.AddIPVSConnections(func() (uint64, error) { return 42, nil })
	m.AddRuleCount(func() int { return 7 })
	m.AddRepairs("services", func() uint64 { return 3 })
	m.AddServiceProxy(func() (bool, int) { return true, 12 })
	m.AddPolicyDrops(func(context.Context) (Drops, error) {
		return Drops{[]PolicyDrops{{"red", "deny", "ingress", 5}}, 2, 6}, nil
	})
	m.AddFlowsCut(func() uint64 { return 4 })
	m.ObserveSync("routes", 3*time.Millisecond)
	m.LandingObserver("services")(20 * time.Millisecond)
	for _, controller := range []string{"routes", "services"} {
		m.AddObjects(controller, func() []reconcile.Count {
			return []reconcile.Count{{Kind: "virtual_servers", Desired: 12, Programmed: 10}}
		})
		m.AddPending(controller, func() []reconcile.Work { return pending })
		m.AddReady(controller, func() bool { return controller == "routes" })
	}
	m.AddMistakes(func() []Mistake { return []Mistake{{"KubeProxyRunning", "warning"}} })
	return m
}

func TestMetrics(t *testing.T) {
	address := freeAddress(t, "127.0.0.1")
	run(t, Options{MetricsAddress: address, MetricsPath: "/metrics", Metrics: all(new(logged).logger()).Handler(), Log: new(logged).logger()})
	got := get(t, address, "/metrics")
	for _, line := range []string{
		`kube_router_bgp_session_up{neighbor="192.168.1.11"} 1`,
		`kube_router_bgp_session_up{neighbor="fd00::b"} 0`,
		`kube_router_service_proxy_ipvs_connections_total 42`,
		`kube_router_firewall_iptables_rules_total 7`,
		`kube_router_controller_repairs_total{controller="services"} 3`,
		`kube_router_policy_dropped_packets_total{direction="ingress",namespace="red",policy="deny"} 5`,
		`kube_router_policy_new_pod_dropped_packets_total 2`,
		`kube_router_policy_bridge_dropped_packets_total 6`,
		`kube_router_policy_flows_cut_total 4`,
		`kube_router_service_proxy_ipvs_available 1`,
		`kube_router_service_proxy_virtual_servers 12`,
		`kube_router_controller_sync_duration_seconds_bucket{controller="routes",le="0.0025"} 0`,
		`kube_router_controller_sync_duration_seconds_bucket{controller="routes",le="0.005"} 1`,
		`kube_router_controller_sync_duration_seconds_count{controller="routes"} 1`,
		`kube_router_controller_api_to_kernel_seconds_bucket{controller="services",le="0.01"} 0`,
		`kube_router_controller_api_to_kernel_seconds_bucket{controller="services",le="0.025"} 1`,
		`kube_router_controller_desired_objects{controller="services",kind="virtual_servers"} 12`,
		`kube_router_controller_programmed_objects{controller="services",kind="virtual_servers"} 10`,
		`kube_router_controller_missing_objects{controller="services",kind="virtual_servers"} 2`,
		`kube_router_controller_pending{controller="services"} 5`,
		`kube_router_controller_pending_errors{controller="services",kind="service"} 2`,
		`kube_router_controller_pending_errors{controller="services",kind="iptables"} 1`,
		`kube_router_controller_ready{controller="services"} 0`,
		`kube_router_controller_ready{controller="routes"} 1`,
		`kube_router_advice{reason="KubeProxyRunning",severity="warning"} 1`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("there is no %s", line)
		}
	}
	if strings.Contains(got, `kind="sweep"`) {
		t.Error("what is waited for is no error")
	}
	for _, part := range []string{"\nkube_router_controller_oldest_pending_seconds{controller=\"services\"} 360", `kube_router_build_info{goversion="go`, `version="v3.0.0"} 1`, "\nprocess_resident_memory_bytes ", "\ngo_goroutines "} {
		if !strings.Contains(got, part) {
			t.Errorf("there is no %q", part)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestMetricsOfControllersThatDoNotRun(t *testing.T) {
	families, err := NewMetrics("v", new(logged).logger()).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "kube_router_") {
			names = append(names, f.GetName())
		}
	}
	if !slices.Equal(names, []string{"kube_router_build_info"}) {
		t.Errorf("listed: %q", names)
	}
}

// One metric that cannot be had costs only itself.
func TestMetricThatFails(t *testing.T) {
	log := &logged{}
	m := NewMetrics("v", log.logger())
	m.AddIPVSConnections(func() (uint64, error) { return 0, errors.New("no such module: ip_vs") })
	m.AddPolicyDrops(func(context.Context) (Drops, error) { return Drops{}, errors.New("the lock is held") })
	m.AddRuleCount(func() int { return 7 })
	m.AddRepairs("services", func() uint64 { return 3 })
	m.AddServiceProxy(func() (bool, int) { return true, 12 })
	var w *httptest.ResponseRecorder
	for range 3 {
		w = httptest.NewRecorder()
		m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	}
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "firewall_iptables_rules_total 7") || strings.Contains(w.Body.String(), "ipvs_connections_total ") ||
		strings.Contains(w.Body.String(), "dropped_packets_total") {
		t.Errorf("status %d:\n%s", w.Code, w.Body)
	}
	for _, why := range []string{"no such module: ip_vs", "the lock is held"} {
		if n := log.count(why); n != 1 {
			t.Errorf("%s: logged %d times", why, n)
		}
	}
}

// The names follow the conventions of Prometheus, with one exception: the
// rules' established name ends as a counter's.
func TestMetricsFollowConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(all(new(logged).logger()).registry)
	if err != nil {
		t.Fatal(err)
	}
	want := []promlint.Problem{{Metric: "kube_router_firewall_iptables_rules_total", Text: `non-counter metrics should not have "_total" suffix`}}
	if !slices.Equal(problems, want) {
		t.Errorf("got %q, want %q", problems, want)
	}
}

// Whoever asked for the metrics and hung up is no news; a metric that cannot be
// had is.
func TestHangUpsAreNoWarnings(t *testing.T) {
	var out bytes.Buffer
	l := scrapeLog{slog.New(slog.NewTextHandler(&out, nil))}
	l.Println("error encoding and sending metric family:", context.Canceled)
	if out.Len() > 0 {
		t.Errorf("a hang-up is logged: %s", out.String())
	}
	l.Println("error gathering metrics:", context.Canceled)
	if !strings.Contains(out.String(), `level=WARN msg="metrics: error gathering metrics: context canceled"`) {
		t.Errorf("logged: %q", out.String())
	}
}
