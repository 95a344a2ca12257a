// Package health answers what an operator and Kubernetes ask of a running
// agent: whether it lives, what it still waits for, and its metrics.
package health

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// bindRetry is how long a server waits before it tries again to listen: the
// port may be held by the agent's predecessor, the address may come later.
const bindRetry = 2 * time.Second

// The bounds for a request, so that a slow client costs nothing for long.
const (
	headerTimeout   = 5 * time.Second
	requestTimeout  = 30 * time.Second
	mostHeaderBytes = 16 << 10
)

// Check says whether a part of the agent has done its work once, and if not,
// in words, what it waits for ("waiting for the node's pod CIDR").
type Check func() (ok bool, reason string)

// Once is a Check that holds from when done is closed. Until then waiting
// tells what is waited for.
func Once(done <-chan struct{}, waiting func() string) Check {
	return func() (bool, string) {
		select {
		case <-done:
			return true, ""
		default:
			return false, waiting()
		}
	}
}

// Options say what is served, and where. An empty address serves nothing.
type Options struct {
	// HealthAddress is "host:port" of /healthz and /readyz.
	HealthAddress string
	// Checks are the parts that must be ready, by name.
	Checks map[string]Check
	// MetricsAddress is "host:port" of /metrics, which Metrics answers.
	MetricsAddress string
	Metrics        http.Handler
	Log            *slog.Logger
}

// Server serves health and metrics.
type Server struct{ options Options }

// NewServer returns a Server, which Run runs.
func NewServer(o Options) *Server { return &Server{o} }

// Run serves until ctx ends, and then returns nil. An address that cannot be
// listened on is tried again, since what is programmed works without it.
func (s *Server) Run(ctx context.Context) error {
	health := http.NewServeMux()
	health.HandleFunc("GET /healthz", alive)
	health.HandleFunc("GET /readyz", s.ready)
	metrics := http.NewServeMux()
	if s.options.Metrics != nil {
		metrics.Handle("GET /metrics", s.options.Metrics)
	}
	var all sync.WaitGroup
	all.Go(func() { s.serve(ctx, "health", s.options.HealthAddress, health) })
	all.Go(func() { s.serve(ctx, "metrics", s.options.MetricsAddress, metrics) })
	all.Wait()
	return nil
}

func alive(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

// ready answers with a line for each part of the agent.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	status := http.StatusOK
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.options.Checks)) {
		ok, reason := s.options.Checks[name]()
		if ok {
			reason = "ready"
		} else {
			status = http.StatusServiceUnavailable
		}
		fmt.Fprintf(&lines, "%s: %s\n", name, reason)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprint(w, lines.String())
}

// serve serves at an address until ctx ends.
func (s *Server) serve(ctx context.Context, what, address string, handler http.Handler) {
	if address == "" {
		return
	}
	listener := s.listen(ctx, what, address)
	if listener == nil {
		return
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		MaxHeaderBytes:    mostHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); ctx.Err() == nil {
		s.options.Log.Warn(what+" server ended", "address", address, "err", err)
	}
}

// listen tries until it listens, or ctx ends. The first failure and the
// success after it are a line each.
func (s *Server) listen(ctx context.Context, what, address string) net.Listener {
	failed := false
	for ctx.Err() == nil {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			if failed {
				s.options.Log.Info(what+" server listens now", "address", address)
			}
			return listener
		}
		if !failed && ctx.Err() == nil {
			s.options.Log.Warn(what+" server cannot listen, trying until it can; the flags --"+what+"-addr and --"+what+"-port set another address", "address", address, "err", err)
			failed = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(bindRetry):
		}
	}
	return nil
}
