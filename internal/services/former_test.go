package services

import (
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

// whole is all of the kernel that the controller has made, without the numbers of
// marks, of which each run may choose others.
func (w *world) whole() string {
	text := w.state()
	for _, table := range []iptables.Table{iptables.Filter, iptables.NAT, iptables.Mangle} {
		text += w.rules[inet.IPv4].Text(table)
	}
	for _, name := range []string{conf("all", "rp_filter"), conf("eth0", "rp_filter"), conf("eth0", "accept_local")} {
		value, _ := w.sysctl.Get(name)
		text += name + "=" + value + "\n"
	}
	lines := strings.Split(regexp.MustCompile(`-f \d+|skbmark 0x[0-9a-f]+`).ReplaceAllString(text, "MARK"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// rest lets a run end all that it has to do, and ends it.
func (r *running) rest() string {
	time.Sleep(10 * time.Minute) // of the bubble
	synctest.Wait()
	defer r.stop()
	if p := r.pending(); p != "" {
		return "pending: " + p
	}
	return r.whole()
}

func recorded(t *testing.T, w *world) *world {
	w.before = record.Open(filepath.Join(t.TempDir(), "before.json"), slog.New(slog.DiscardHandler))
	return w
}

// Datagrams' clients move on at once, also where session affinity and marks make
// the virtual server another one.
func TestMarkedDatagramsDoNotDrain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		config := config4()
		config.GracePeriod = time.Minute
		dns := with(service("dns", "10.96.0.10", udp(53, 30053)), func(s *cluster.Service) { s.ExternalLocal, s.AffinityTimeout = true, time.Hour })
		r := w.start(config, set(n1, dns, slice("dns", 53, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"), ready("10.244.2.3", "n2"))))
		defer r.stop()
		if !strings.Contains(w.ipvs.String(), "-f ") || !strings.Contains(w.ipvs.String(), "10.244.2.3:53") {
			t.Fatalf("no mark, or not all endpoints:\n%s", w.ipvs)
		}
		r.happen(set(slice("dns", 53, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2"))))
		if strings.Contains(w.ipvs.String(), "10.244.2.3:53") {
			t.Errorf("an endpoint that went drains:\n%s", w.ipvs)
		}
	})
}

// What went while the agent was down is gone once it is up again: nothing is left
// that a run without a past would not have made.
func TestWhatWentWhileTheAgentWasDown(t *testing.T) {
	config := config4()
	config.ExternalIPRanges = prefixes("192.168.7.0/24")
	onNode := with(service("ext", "10.96.0.20", tcp(80, 30081)), func(s *cluster.Service) { s.ExternalIPs = addrs("192.168.7.11") })
	onNodeSlice := slice("ext", 8080, ready("10.244.1.2", "n1"))
	direct := annotated(service("direct", "10.96.0.30", tcp(80, 0)), "service.dsr", "tunnel")
	for name, c := range map[string]struct{ before, after []event }{
		"a Service at the node's own address": {[]event{set(n1, onNode, onNodeSlice)}, []event{set(n1)}},
		"its endpoints":                       {[]event{set(n1, onNode, onNodeSlice)}, []event{set(n1, onNode)}},
		"the node's address": {[]event{set(n1, web, webSlice)},
			[]event{set(node("n1", "192.168.7.12", "10.244.1.0/24"), web, webSlice)}},
		"direct server return": {[]event{set(n1, n2, web, webSlice, direct, slice("direct", 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2")))},
			[]event{set(n1, n2, web, webSlice)}},
		"direct server return without an endpoint here": {[]event{set(n1, n2, web, webSlice, direct, slice("direct", 8080, ready("10.244.2.2", "n2")))},
			[]event{set(n1, n2, web, webSlice)}},
	} {
		t.Run(name, func(t *testing.T) {
			var want string
			synctest.Test(t, func(t *testing.T) { want = recorded(t, newWorld(t)).start(config, c.after...).rest() })
			synctest.Test(t, func(t *testing.T) {
				w := recorded(t, newWorld(t))
				w.start(config, c.before...).stop()
				if diff := cmp.Diff(want, w.start(config, c.after...).rest()); diff != "" {
					t.Errorf("after a restart (-without a past +got):\n%s", diff)
				}
			})
		})
	}
}

// The same for whatever was before, and is after.
func TestARestartForgetsThePast(t *testing.T) {
	config := config4()
	config.Hairpin = true
	config.LoadBalancerIPRanges, config.ExternalIPRanges = prefixes("203.0.113.0/24", "192.168.7.0/24"), prefixes("203.0.113.0/24", "192.168.7.0/24")
	rapid.Check(t, func(rt *rapid.T) {
		before, after := drawHistory(rt), drawHistory(rt)
		var got, want string
		synctest.Test(t, func(t *testing.T) {
			w := recorded(t, newWorld(t))
			w.lax = true // what is let through is the former run's until all is swept
			w.start(config, before.end()...).stop()
			got = w.start(config, after.end()...).rest()
		})
		synctest.Test(t, func(t *testing.T) { want = recorded(t, newWorld(t)).start(config, after.end()...).rest() })
		if got != want {
			rt.Fatalf("(-without a past +restarted):\n%s", cmp.Diff(want, got))
		}
	})
}

// end are the events that lead to what is left of a history.
func (h history) end() []event {
	events := []event{set(n1)}
	for _, object := range h.last {
		if object != nil {
			events = append(events, set(object))
		}
	}
	return events
}
