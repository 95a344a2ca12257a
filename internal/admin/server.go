package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultSocket is where the agent listens, and the command looks.
const DefaultSocket = "/run/kube-router/kube-router.sock"

// The modes of the socket and of the directory that is made for it: the file
// is the guard, and it is root's.
const (
	socketMode    = 0o600
	directoryMode = 0o755
)

// bindRetry is how long the server waits before it tries again to listen.
const bindRetry = 2 * time.Second

// The bounds for a request.
const (
	headerTimeout   = 5 * time.Second
	requestTimeout  = 30 * time.Second
	mostHeaderBytes = 16 << 10
)

// Views are what the server tells; nil where the controller does not run, or
// while Starting says what the agent waits for. They are called by many
// goroutines, and return nil for an empty list.
type Views struct {
	Status   func(context.Context) Status
	Peers    func() []Peer
	Routes   func() []Route
	Services func() []Service
	Policies func() []Policy
	Sets     func() []Set
	Starting func() string
}

// Server answers on the socket.
type Server struct {
	socket string
	log    *slog.Logger
	views  atomic.Pointer[Views]
}

// NewServer returns a Server that Run runs. An empty socket is none. Until Show
// is called it answers that the agent is starting.
func NewServer(socket string, log *slog.Logger) *Server { return &Server{socket: socket, log: log} }

// Show is what to tell from now on.
func (s *Server) Show(v Views) { s.views.Store(&v) }

// Run serves until ctx ends, and then returns nil. A socket that cannot be made
// is tried again: what is programmed works without it.
func (s *Server) Run(ctx context.Context) error {
	if s.socket == "" {
		return nil
	}
	listener := s.listen(ctx)
	if listener == nil {
		return nil
	}
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		MaxHeaderBytes: mostHeaderBytes,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); ctx.Err() == nil {
		s.log.Warn("the socket for kube-router status is closed", "socket", s.socket, "err", err)
	}
	return nil
}

// listen tries until it listens, or ctx ends. The first failure and the success
// after it are a line each.
func (s *Server) listen(ctx context.Context) net.Listener {
	failed := false
	for ctx.Err() == nil {
		listener, err := listenUnix(ctx, s.socket)
		if err == nil {
			if failed {
				s.log.Info("kube-router status works now", "socket", s.socket)
			}
			return listener
		}
		if !failed && ctx.Err() == nil {
			s.log.Warn("kube-router status will not work: cannot listen, trying until it can; the flag --socket names another file", "socket", s.socket, "err", err)
			failed = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(bindRetry):
		}
	}
	return nil
}

// ErrInUse means that another agent listens on the socket.
var ErrInUse = errors.New("another kube-router runs on this node and listens there")

// listenUnix makes the socket with its mode, in place of one that a former run
// left and nobody listens on.
func listenUnix(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), directoryMode); err != nil {
		return nil, err
	}
	if err := removeStale(ctx, socket); err != nil {
		return nil, err
	}
	// The kernel gives the file the mode that the socket has when it is bound,
	// so that there is no moment in which others could open it.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var modeErr error
		err := raw.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), socketMode) })
		return errors.Join(err, modeErr)
	}}
	return config.Listen(ctx, "unix", socket)
}

// removeStale removes a socket that nobody listens on. Any other file stays.
func removeStale(ctx context.Context, socket string) error {
	info, err := os.Lstat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket: remove it, or name another file with --socket", socket)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err == nil {
		conn.Close()
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(socket)
}

// handler answers requests.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		v := s.views.Load()
		if v == nil {
			refuse(w, http.StatusServiceUnavailable, "the agent is starting and cannot tell yet; its log says what it waits for")
			return
		}
		answer(w, v.Status(r.Context()))
	})
	list(mux, s, "peers", "routes", func(v *Views) func() []Peer { return v.Peers })
	list(mux, s, "routes", "routes", func(v *Views) func() []Route { return v.Routes })
	list(mux, s, "services", "services", func(v *Views) func() []Service { return v.Services })
	list(mux, s, "policies", "policy", func(v *Views) func() []Policy { return v.Policies })
	list(mux, s, "sets", "", func(v *Views) func() []Set { return v.Sets })
	return mux
}

// list answers with a view of a controller.
func list[T any](mux *http.ServeMux, s *Server, what, controller string, view func(*Views) func() []T) {
	mux.HandleFunc("GET /v1/"+what, func(w http.ResponseWriter, _ *http.Request) {
		v := s.views.Load()
		switch {
		case v == nil:
			refuse(w, http.StatusServiceUnavailable, "the agent is starting and cannot tell yet; its log says what it waits for")
		case view(v) == nil && v.Starting != nil:
			refuse(w, http.StatusServiceUnavailable, "the agent is starting and has no "+what+" yet: "+v.Starting())
		case view(v) == nil:
			refuse(w, http.StatusNotFound, fmt.Sprintf("no %s here: the %s controller is off", what, controller))
		default:
			items := view(v)()
			if items == nil {
				items = []T{}
			}
			answer(w, List[T]{items})
		}
	})
}

// failure is the body of an answer that is no 200.
type failure struct {
	Error string `json:"error"`
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(failure{why})
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}
