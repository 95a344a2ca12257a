package check

import (
	"encoding/json"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// foreign are the metrics that are not the agent's own, and their labels: those
// of Prometheus, of its library, and of kube-state-metrics.
var foreign = map[string][]string{
	"up": nil, "process_resident_memory_bytes": nil, "process_start_time_seconds": nil, "process_cpu_seconds_total": nil,
	"kube_daemonset_status_number_unavailable": {"namespace", "daemonset"},
}

// documented are the agent's metrics and their labels, of which a test of the
// agent proves that they are those that it has.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	text := string(read(t, "../../docs/metrics.md"))
	for _, row := range regexp.MustCompile("(?m)^\\| `(kube_router_[a-z_]*)(?:\\{([^`}]*)\\})?` \\| ([a-z]+) \\|").FindAllStringSubmatch(text, -1) {
		metrics := []string{row[1]}
		names := strings.FieldsFunc(row[2], func(r rune) bool { return r == ',' })
		if row[3] == "histogram" {
			metrics = []string{row[1] + "_bucket", row[1] + "_sum", row[1] + "_count"}
			names = append(names, "le")
		}
		for _, m := range metrics {
			all[m] = names
		}
	}
	if len(all) < 10 {
		t.Fatalf("docs/metrics.md has only %v", all)
	}
	return all
}

// judge parses an expression, and wants every metric to exist and every label
// that is asked for to be one of the metric or one that scraping adds.
func judge(t *testing.T, where, text string, known map[string][]string) (used []string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return nil
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		used = append(used, selector.Name)
		names, own := known[selector.Name]
		if !own {
			if names, own = foreign[selector.Name]; !own {
				t.Errorf("%s: there is no metric %q", where, selector.Name)
			}
		}
		for _, m := range selector.LabelMatchers {
			if m.Name != model.MetricNameLabel && m.Name != "job" && m.Name != "node" && !slices.Contains(names, m.Name) {
				t.Errorf("%s: %s has no label %q", where, selector.Name, m.Name)
			}
		}
		return nil
	})
	return used
}

// Prometheus takes the rules, templates included; their metrics exist, and the
// manual says what each alert means.
func TestAlerts(t *testing.T) {
	manual, known, described := string(read(t, "../../docs/metrics.md")), documented(t), 0
	for _, r := range alerts(t) {
		judge(t, r.Alert, r.Expr, known)
		severity := r.Labels["severity"]
		if !strings.Contains(manual, "| `"+r.Alert+"` | "+severity+" |") {
			t.Errorf("docs/metrics.md does not say what %s (%s) means", r.Alert, severity)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s has no summary or description", r.Alert)
		}
		described++
	}
	if rows := strings.Count(manual, "\n| `KubeRouter"); rows != described {
		t.Errorf("docs/metrics.md has %d alerts, and there are %d", rows, described)
	}
}

// alerts are the rules, as Prometheus parses them.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	text := read(t, filepath.Join(deploy, "monitoring", "alerts.yaml"))
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Fatal(err)
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

type dashboardPanel struct {
	ID      int
	Title   string
	Type    string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ Expr string }
}

// Every panel of the dashboard asks for what exists, and every metric of the
// agent has a panel.
func TestDashboard(t *testing.T) {
	var d struct {
		Title  string
		Panels []dashboardPanel
	}
	if err := json.Unmarshal(read(t, filepath.Join(deploy, "monitoring", "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	known, shown, ids := documented(t), map[string]bool{}, map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s: its number %d or place %v is wrong", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		if (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("%s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			// Grafana puts these in.
			expr := strings.NewReplacer("$__rate_interval", "5m", "$node", "node1").Replace(target.Expr)
			for _, name := range judge(t, p.Title, expr, known) {
				shown[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if base, histogram := strings.CutSuffix(name, "_bucket"); histogram && !shown[name] {
			t.Errorf("no panel shows %s", base)
		} else if !slices.Contains(known[name], "le") && !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}
