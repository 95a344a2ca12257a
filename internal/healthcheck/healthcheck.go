// Package healthcheck tells load balancers whether this node has endpoints of
// a Service whose externalTrafficPolicy is Local, on the Service's
// healthCheckNodePort. Answers are those of kube-proxy, since the load
// balancers of cloud providers read them.
package healthcheck

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// The bounds for a request. The port is open to whoever reaches the node.
const (
	requestTimeout  = 5 * time.Second
	idleTimeout     = 30 * time.Second
	mostHeaderBytes = 8 << 10
)

// Check is what one Service wants to be told about it.
type Check struct {
	// Port is the Service's healthCheckNodePort.
	Port uint16
	// Local is how many of its endpoints on this node get traffic.
	Local int
	// Service is whom an Event about the port is about.
	Service *cluster.Meta
}

// Servers are the HTTP servers of all Services. The zero value is of no use;
// it is safe for concurrent use.
type Servers struct {
	log    *slog.Logger
	events cluster.Reporter
	listen func(port uint16) (net.Listener, error)

	mu       sync.Mutex
	services map[cluster.Key]Check
	// claims are the Services that want a port, sorted: the first has it.
	claims  map[uint16][]cluster.Key
	servers map[uint16]*server
	healthy bool
	// told keeps what users were told of each Service, so that it is said once.
	told   reconcile.Complaints
	retry  *time.Timer
	closed bool
	// serving counts the servers' goroutines.
	serving sync.WaitGroup
}

// server listens on one port for the Service that has it.
type server struct {
	owner    cluster.Key
	listener net.Listener
	http     *http.Server
}

// close ends the server. The port is free when it returns, also where Serve has
// not taken the listener over yet.
func (s *server) close() {
	s.http.Close()
	s.listener.Close()
}

// New returns Servers without any, which will listen on all addresses of the
// families. They say that the proxy is not healthy until Healthy says that it
// is.
func New(log *slog.Logger, events cluster.Reporter, families []inet.Family) *Servers {
	return &Servers{
		log: log, events: events, told: reconcile.Complaints{},
		listen:   func(port uint16) (net.Listener, error) { return listen(families, port) },
		services: map[cluster.Key]Check{}, claims: map[uint16][]cluster.Key{}, servers: map[uint16]*server{},
	}
}

// listen listens on all addresses of the node, as load balancers probe it from
// outside.
func listen(families []inet.Family, port uint16) (net.Listener, error) {
	network := "tcp"
	if len(families) == 1 {
		network = map[inet.Family]string{inet.IPv4: "tcp4", inet.IPv6: "tcp6"}[families[0]]
	}
	return net.Listen(network, net.JoinHostPort("", strconv.Itoa(int(port))))
}

// Healthy says whether the proxy has programmed what it was told. While it has
// not, no Service of this node is healthy.
func (s *Servers) Healthy(healthy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healthy = healthy
}

// answer is the body, in kube-proxy's form.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// state is the present answer of a port, and false where no Service has it.
func (s *Servers) state(port uint16) (a answer, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	server := s.servers[port]
	if server == nil {
		return a, false
	}
	a.Service.Namespace, a.Service.Name = server.owner.Namespace, server.owner.Name
	a.LocalEndpoints, a.ServiceProxyHealthy = s.services[server.owner].Local, s.healthy
	return a, true
}

// handler answers every path, as kube-proxy does.
func (s *Servers) handler(port uint16) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		a, ok := s.state(port)
		if !ok {
			http.Error(w, "no Service has this port any more", http.StatusServiceUnavailable)
			return
		}
		status := http.StatusOK
		if a.LocalEndpoints == 0 || !a.ServiceProxyHealthy {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.LocalEndpoints))
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(a)
	}
}

// open starts the server of a port. The caller holds the lock.
func (s *Servers) open(port uint16, owner cluster.Key) error {
	listener, err := s.listen(port)
	if err != nil {
		return fmt.Errorf("cannot listen on the healthCheckNodePort %d, so load balancers take this node for one without endpoints: %w", port, err)
	}
	server := &server{owner: owner, listener: listener, http: &http.Server{
		Handler:           s.handler(port),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    mostHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}}
	s.servers[port] = server
	s.serving.Go(func() { s.serve(port, server) })
	return nil
}

// serve serves until the server is closed. One that ends otherwise is opened
// again like a port that is taken.
func (s *Servers) serve(port uint16, server *server) {
	err := server.http.Serve(server.listener)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers[port] == server {
		s.log.Warn("health check server of a Service ended, it is started again", "service", server.owner, "port", port, "err", err)
		s.closePort(port)
		s.retryLater()
	}
}

// Close ends all servers and waits until they have.
func (s *Servers) Close() {
	s.mu.Lock()
	s.closed = true
	if s.retry != nil {
		s.retry.Stop()
	}
	for port := range s.servers {
		s.closePort(port)
	}
	s.mu.Unlock()
	s.serving.Wait()
}

func (s *Servers) closePort(port uint16) {
	s.servers[port].close()
	delete(s.servers, port)
}
