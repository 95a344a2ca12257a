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
	"net/http/pprof"
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
	profileTimeout  = 5 * time.Minute // a profile takes as long as it is asked for
	mostHeaderBytes = 16 << 10
)

// Check says whether a part of the agent is as it should be, and in words what
// it does or waits for ("waiting for the node's pod CIDR").
type Check func() (ok bool, words string)

// Options say what is served, and where. An empty address serves nothing.
type Options struct {
	// HealthAddress is "host:port" of /healthz and /readyz.
	HealthAddress string
	// Alive are the parts that must not hang, Ready those that must have done
	// their work once, by name. They are called without a bound in time, and
	// so must not wait for the parts.
	Alive, Ready map[string]Check
	// MetricsAddress is "host:port" of MetricsPath, which Metrics answers.
	MetricsAddress, MetricsPath string
	Metrics                     http.Handler
	// ProfilesAddress is "host:port" of Go's profiles, below /debug/pprof/.
	ProfilesAddress string
	Log             *slog.Logger
}

// Server serves health and metrics.
type Server struct{ options Options }

// NewServer returns a Server, which Run runs.
func NewServer(o Options) *Server { return &Server{o} }

// Run serves until ctx ends, and then returns nil. An address that cannot be
// listened on is tried again, since what is programmed works without it.
func (s *Server) Run(ctx context.Context) error {
	health := http.NewServeMux()
	health.HandleFunc("GET /healthz", answer(s.options.Alive))
	health.HandleFunc("GET /readyz", answer(s.options.Ready))
	metrics := http.NewServeMux()
	if s.options.Metrics != nil {
		metrics.Handle("GET "+s.options.MetricsPath, s.options.Metrics)
	}
	var all sync.WaitGroup
	for _, l := range []listening{
		{"health", s.options.HealthAddress, health, requestTimeout, "the flags --health-addr and --health-port set another address"},
		{"metrics", s.options.MetricsAddress, metrics, requestTimeout, "the flags --metrics-addr and --metrics-port set another address"},
		{"pprof", s.options.ProfilesAddress, profiles(), profileTimeout, "--enable-pprof=false does without"},
	} {
		all.Go(func() { s.serve(ctx, l) })
	}
	all.Wait()
	return nil
}

// listening is one server.
type listening struct {
	what, address string
	handler       http.Handler
	answerTime    time.Duration
	wayOut        string // where it cannot listen
}

// profiles are Go's profiles of this process.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// answer answers with "ok" or "not ok", and a line for each part of the agent.
func answer(checks map[string]Check) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		status, verdict := http.StatusOK, "ok\n"
		var lines strings.Builder
		for _, name := range slices.Sorted(maps.Keys(checks)) {
			ok, words := checks[name]()
			if !ok {
				status, verdict = http.StatusServiceUnavailable, "not ok\n"
			}
			fmt.Fprintf(&lines, "%s: %s\n", name, words)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, verdict+lines.String())
	}
}

// serve serves at an address until ctx ends.
func (s *Server) serve(ctx context.Context, l listening) {
	if l.address == "" {
		return
	}
	listener := s.listen(ctx, l)
	if listener == nil {
		return
	}
	server := &http.Server{
		Handler:           l.handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      l.answerTime,
		MaxHeaderBytes:    mostHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); ctx.Err() == nil {
		s.options.Log.Warn(l.what+" server ended", "address", l.address, "err", err)
	}
}

// listen tries until it listens, or ctx ends. The first failure and the
// success after it are a line each.
func (s *Server) listen(ctx context.Context, l listening) net.Listener {
	failed := false
	for ctx.Err() == nil {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.address)
		if err == nil {
			if failed {
				s.options.Log.Info(l.what+" server listens now", "address", l.address)
			}
			return listener
		}
		if !failed && ctx.Err() == nil {
			s.options.Log.Warn(l.what+" server cannot listen, trying until it can; "+l.wayOut, "address", l.address, "err", err)
			failed = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(bindRetry):
		}
	}
	return nil
}
