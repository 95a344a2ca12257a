package check

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
)

// The scrape configuration of the manual finds the agents, of IPv4 and IPv6,
// and nothing else.
func TestScrapeConfig(t *testing.T) {
	_, text, _ := strings.Cut(string(read(t, "../../docs/metrics.md")), "\n    scrape_configs:\n")
	text, _, _ = strings.Cut(text, "    rule_files:")
	// How pods are found is a package of its own that nothing else here needs.
	text = regexp.MustCompile(`(?s)      kubernetes_sd_configs:.*?(      relabel_configs:)`).ReplaceAllString(text, "$1")
	cfg, err := config.Load("    scrape_configs:\n"+text, slog.New(slog.DiscardHandler))
	if err != nil || len(cfg.ScrapeConfigs) != 1 || cfg.ScrapeConfigs[0].JobName != "kube-router" {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, c := range []struct{ app, host, want string }{
		{"kube-router", "192.0.2.1", "192.0.2.1:8080 n1"},
		{"kube-router", "2001:db8::1", "[2001:db8::1]:8080 n1"},
		{"other", "192.0.2.1", ""},
	} {
		b := labels.NewBuilder(labels.FromMap(map[string]string{
			"__address__": "x:1", "__meta_kubernetes_pod_label_k8s_app": c.app, "__meta_kubernetes_pod_container_name": "kube-router",
			"__meta_kubernetes_pod_host_ip": c.host, "__meta_kubernetes_pod_node_name": "n1",
		}))
		got := ""
		if relabel.ProcessBuilder(b, cfg.ScrapeConfigs[0].RelabelConfigs...) {
			got = b.Get("__address__") + " " + b.Get("node")
		}
		if got != c.want {
			t.Errorf("%s at %s: %q, want %q", c.app, c.host, got, c.want)
		}
	}
}
