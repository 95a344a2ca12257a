package app

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// docs/metrics.md has every metric with its labels, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	a := testAgent(t, "--metrics-port=8080", "--policy-cut-flows", "--run-loadbalancer", "--loadbalancer-ip-range=192.0.2.0/24")
	client, err := a.openClient()
	if err != nil {
		t.Fatal(err)
	}
	a.build(drivers{}, client)
	a.show(client)
	registered := registeredMetrics(t, a.metrics)
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(kube_router_[^`]*)` \\|").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, row[1])
	}
	slices.Sort(documented)
	if !slices.Equal(documented, registered) {
		t.Errorf("docs/metrics.md has\n%s\nand the agent\n%s", strings.Join(documented, "\n"), strings.Join(registered, "\n"))
	}
}

// Each controller that programs the kernel counts what others change there.
func TestEachControllerCountsRepairs(t *testing.T) {
	a := testAgent(t, "--metrics-port=8080")
	client, err := a.openClient()
	if err != nil {
		t.Fatal(err)
	}
	a.build(drivers{}, client)
	var controllers []string
	for _, d := range descriptions(t, a.metrics) {
		if d[1] == "kube_router_controller_repairs_total" {
			controllers = append(controllers, d[3])
		}
	}
	slices.Sort(controllers)
	if want := []string{`controller="policy"`, `controller="routes"`, `controller="services"`}; !slices.Equal(controllers, want) {
		t.Errorf("repairs are counted for %q, want %q", controllers, want)
	}
}

// description is how a registered metric prints.
var description = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "(.*)", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// descriptions are the matches of all metrics' descriptions.
func descriptions(t *testing.T, metrics interface{ Describe(chan<- *prometheus.Desc) }) [][]string {
	t.Helper()
	ch := make(chan *prometheus.Desc)
	go func() {
		metrics.Describe(ch)
		close(ch)
	}()
	var list [][]string
	for d := range ch {
		match := description.FindStringSubmatch(d.String())
		if match == nil {
			t.Fatalf("%s: is of another form", d)
		}
		list = append(list, match)
	}
	return list
}

// registeredMetrics are the agent's own metrics in the form name{labels}.
func registeredMetrics(t *testing.T, metrics interface{ Describe(chan<- *prometheus.Desc) }) []string {
	t.Helper()
	var list []string
	for _, match := range descriptions(t, metrics) {
		name, labels := match[1], append(constNames(match[3]), names(match[4])...)
		if !strings.HasPrefix(name, "kube_router_") {
			continue // Go's and the process's
		}
		slices.Sort(labels)
		if len(labels) > 0 {
			name = fmt.Sprintf("%s{%s}", name, strings.Join(labels, ","))
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func names(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func constNames(list string) []string {
	all := names(list)
	for i := range all {
		all[i], _, _ = strings.Cut(all[i], "=")
	}
	return all
}
