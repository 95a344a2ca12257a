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
