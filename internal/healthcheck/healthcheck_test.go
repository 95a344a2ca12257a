package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// node is a node's ports, in memory, and what users are told.
type node struct {
	*Servers
	t *testing.T

	mu     sync.Mutex
	ports  map[uint16]*pipes
	opened []uint16
	events []string
	log    strings.Builder
}

func newNode(t *testing.T) *node {
	n := &node{t: t, ports: map[uint16]*pipes{}}
	log := slog.New(slog.NewTextHandler(&n.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	n.Servers = New(log, n, []inet.Family{inet.IPv4})
	n.Servers.listen = n.listen
	n.Healthy(true)
	return n
}

// Warn implements cluster.Reporter.
func (n *node) Warn(kind string, object *cluster.Meta, reason, message string) {
	n.events = append(n.events, fmt.Sprintf("%s %s %s: %s", kind, object.Key, reason, message))
}

// listen refuses a port that is taken, as the kernel does.
func (n *node) listen(port uint16) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ports[port] != nil {
		return nil, fmt.Errorf("listen tcp :%d: %w", port, syscall.EADDRINUSE)
	}
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	p.free = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.ports, port)
	}
	n.ports[port] = p
	n.opened = append(n.opened, port)
	return p, nil
}

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	free  func()
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done); p.free() })
	return nil
}

func (p *pipes) Addr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPort{}) }

// dial connects to a port of the node.
func (n *node) dial(port uint16) (net.Conn, error) {
	n.mu.Lock()
	p := n.ports[port]
	n.mu.Unlock()
	if p == nil {
		return nil, syscall.ECONNREFUSED
	}
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

func (n *node) response(port uint16) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return n.dial(port) },
	}}
	return client.Get("http://node/healthz")
}

// get is the status and the body that a port answers, or "refused".
func (n *node) get(port uint16) string {
	n.t.Helper()
	response, err := n.response(port)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "refused"
	}
	if err != nil {
		n.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", response.StatusCode, strings.TrimSpace(string(body)))
}

func (n *node) want(port uint16, want string) {
	n.t.Helper()
	if got := n.get(port); got != want {
		n.t.Errorf("port %d answers\n%s\nwant\n%s", port, got, want)
	}
}

func (n *node) wantEvents(want ...string) {
	n.t.Helper()
	if diff := cmp.Diff(want, n.events); diff != "" {
		n.t.Errorf("events (-want +got):\n%s", diff)
	}
	n.events = nil
}

// set sets one Service, "name", in the namespace shop.
func (n *node) set(name string, port uint16, local int) {
	key := cluster.Key{Namespace: "shop", Name: name}
	n.Set(map[cluster.Key]*Check{key: {Port: port, Local: local, Service: &cluster.Meta{Key: key}}})
}

func (n *node) remove(name string) {
	n.Set(map[cluster.Key]*Check{{Namespace: "shop", Name: name}: nil})
}

// body is the answer about a Service in the namespace shop.
func body(status int, name string, local int, healthy bool) string {
	return fmt.Sprintf(`%d {"service":{"namespace":"shop","name":%q},"localEndpoints":%d,"serviceProxyHealthy":%t}`, status, name, local, healthy)
}

// run runs a test with time of its own, which fails if a goroutine is left.
func run(t *testing.T, fn func(n *node)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		defer n.Close()
		fn(n)
	})
}

// pass lets time pass, of the test's own clock, and what is due then happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

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
