package healthcheck

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

func TestAnswers(t *testing.T) {
	run(t, func(n *node) {
		n.set("web", 30100, 2)
		n.want(30100, body(200, "web", 2, true))
		n.set("web", 30100, 0)
		n.want(30100, body(503, "web", 0, true))
		n.set("web", 30100, 1)
		n.want(30100, body(200, "web", 1, true))
		n.Healthy(false)
		n.want(30100, body(503, "web", 1, false))
		n.wantEvents()
	})
}

func TestHeaders(t *testing.T) {
	run(t, func(n *node) {
		n.set("web", 30100, 3)
		response, err := n.response(30100)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		for name, want := range map[string]string{
			"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": "3",
		} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
}

// Until the proxy has programmed its rules the node must get no traffic.
func TestNotHealthyAtStart(t *testing.T) {
	run(t, func(n *node) {
		fresh := New(slog.New(slog.DiscardHandler), n, nil)
		fresh.listen = n.listen
		defer fresh.Close()
		key := cluster.Key{Namespace: "shop", Name: "web"}
		fresh.Set(map[cluster.Key]*Check{key: {Port: 30100, Local: 1}})
		n.want(30100, body(503, "web", 1, false))
	})
}

// Listeners come and go with their Services, and stay where they do.
func TestListenersFollow(t *testing.T) {
	run(t, func(n *node) {
		n.set("web", 30100, 1)
		n.set("dns", 30101, 1)
		n.set("web", 30100, 5)
		n.want(30100, body(200, "web", 5, true))
		n.set("web", 30102, 5)
		n.want(30100, "refused")
		n.want(30102, body(200, "web", 5, true))
		n.set("web", 0, 5)
		n.want(30102, "refused")
		n.remove("unknown")
		n.want(30101, body(200, "dns", 1, true))
		n.remove("dns")
		n.want(30101, "refused")
		if want := []uint16{30100, 30101, 30102}; !slices.Equal(n.opened, want) {
			t.Errorf("listened on %d, want %d: once each", n.opened, want)
		}
		n.wantEvents()
	})
}

// A port is free as soon as Set returns, for whoever wants it next, even where
// its server has hardly begun.
func TestPortIsFreeAtOnce(t *testing.T) {
	run(t, func(n *node) {
		for range 100 {
			n.set("web", 30100, 1)
			n.remove("web")
			n.want(30100, "refused")
		}
		n.wantEvents()
	})
}

// Two Services swap their ports in one change.
func TestSwap(t *testing.T) {
	run(t, func(n *node) {
		a, b := cluster.Key{Namespace: "shop", Name: "a"}, cluster.Key{Namespace: "shop", Name: "b"}
		n.Set(map[cluster.Key]*Check{a: {Port: 30100, Local: 1}, b: {Port: 30101, Local: 2}})
		n.Set(map[cluster.Key]*Check{a: {Port: 30101, Local: 1}, b: {Port: 30100, Local: 2}})
		n.want(30101, body(200, "a", 1, true))
		n.want(30100, body(200, "b", 2, true))
		n.wantEvents()
	})
}

// A port that some other process has is reported once, and had when it is free.
func TestPortIsTaken(t *testing.T) {
	run(t, func(n *node) {
		other, err := n.listen(30100)
		if err != nil {
			t.Fatal(err)
		}
		n.set("web", 30100, 1)
		n.set("web", 30100, 2)
		pass(5 * retryPeriod)
		n.wantEvents("Service shop/web HealthCheckNodePort: cannot listen on the healthCheckNodePort 30100, so load balancers take this node for one without endpoints: listen tcp :30100: address already in use")
		other.Close()
		pass(retryPeriod)
		n.want(30100, body(200, "web", 2, true))
		n.wantEvents()
		want := `level=WARN msg="health check port of a Service is not served" service=shop/web port=30100 err="cannot listen on the healthCheckNodePort 30100, so load balancers take this node for one without endpoints: listen tcp :30100: address already in use"
level=INFO msg="health check port of a Service is served now" service=shop/web port=30100
`
		if diff := cmp.Diff(want, n.log.String()); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// Nothing is retried for a Service that is gone.
func TestPortIsTakenAndTheServiceGoes(t *testing.T) {
	run(t, func(n *node) {
		other, err := n.listen(30100)
		if err != nil {
			t.Fatal(err)
		}
		n.set("web", 30100, 1)
		n.remove("web")
		n.set("web", 30100, 1)
		n.remove("web")
		if len(n.events) != 2 {
			t.Errorf("events %q, want one for each time the Service came", n.events)
		}
		other.Close()
		pass(2 * retryPeriod)
		n.want(30100, "refused")
	})
}

// Of two Services with one port the first by name has it, whichever came
// first; when it goes, the other gets it, without the port being closed.
func TestTwoServicesWithOnePort(t *testing.T) {
	run(t, func(n *node) {
		n.set("b", 30100, 2)
		n.want(30100, body(200, "b", 2, true))
		n.set("a", 30100, 1)
		n.want(30100, body(200, "a", 1, true))
		n.wantEvents("Service shop/b HealthCheckNodePort: healthCheckNodePort 30100 is that of the Service shop/a too, which has it: give this Service another one")
		n.set("b", 30100, 3)
		n.want(30100, body(200, "a", 1, true))
		n.wantEvents()
		n.remove("a")
		n.want(30100, body(200, "b", 3, true))
		if want := []uint16{30100}; !slices.Equal(n.opened, want) {
			t.Errorf("listened on %d, want %d", n.opened, want)
		}
	})
}

// A client that says nothing, or too much, is cut off.
func TestRudeClients(t *testing.T) {
	run(t, func(n *node) {
		n.set("web", 30100, 1)
		silent, err := n.dial(30100)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if rest, err := io.ReadAll(silent); err != nil || len(rest) > 0 {
			t.Errorf("a silent client reads %q, %v", rest, err)
		}
		if took := time.Since(began); took != requestTimeout {
			t.Errorf("a silent client is cut off after %s, want %s", took, requestTimeout)
		}
		verbose, err := n.dial(30100)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = io.WriteString(verbose, "GET / HTTP/1.1\r\nHost: node\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
		}()
		answer, _ := io.ReadAll(verbose)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") {
			t.Errorf("a client with long headers reads %q, want 431", answer)
		}
		n.want(30100, body(200, "web", 1, true))
	})
}

// A listener that fails is opened again.
func TestListenerFails(t *testing.T) {
	run(t, func(n *node) {
		n.set("web", 30100, 1)
		n.mu.Lock()
		listener := n.ports[30100]
		n.mu.Unlock()
		listener.Close()
		synctest.Wait()
		n.want(30100, "refused")
		pass(retryPeriod)
		n.want(30100, body(200, "web", 1, true))
	})
}

// After Close nothing listens, and nothing comes back; run sees that no
// goroutine is left.
func TestClose(t *testing.T) {
	run(t, func(n *node) {
		other, err := n.listen(30101)
		if err != nil {
			t.Fatal(err)
		}
		n.set("web", 30100, 1)
		n.set("dns", 30101, 1)
		idle, err := n.dial(30100)
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
		if _, err := io.ReadAll(idle); err != nil {
			t.Errorf("an open connection ends with %v", err)
		}
		other.Close()
		n.set("web", 30102, 1)
		pass(2 * retryPeriod)
		for _, port := range []uint16{30100, 30101, 30102} {
			n.want(port, "refused")
		}
		n.Close()
	})
}

// The real listener is there for the enabled families, on all addresses.
func TestFamilies(t *testing.T) {
	for _, c := range []struct {
		families []inet.Family
		network  string
		refused  string
	}{
		{[]inet.Family{inet.IPv4}, "0.0.0.0", "::1"},
		{[]inet.Family{inet.IPv6}, "::", "127.0.0.1"},
		{[]inet.Family{inet.IPv4, inet.IPv6}, "::", ""},
	} {
		listener, err := listen(c.families, 0)
		if err != nil {
			t.Fatalf("%v: %v", c.families, err)
		}
		defer listener.Close()
		addr := listener.Addr().(*net.TCPAddr)
		if addr.IP.String() != c.network {
			t.Errorf("%v: listens on %s, want %s", c.families, addr.IP, c.network)
		}
		for _, to := range []string{"127.0.0.1", "::1"} {
			conn, err := net.Dial("tcp", net.JoinHostPort(to, fmt.Sprint(addr.Port)))
			if (err != nil) != (to == c.refused) {
				t.Errorf("%v: dialling %s: %v", c.families, to, err)
			}
			if err == nil {
				conn.Close()
			}
		}
	}
}
