package ipvs

import (
	"cmp"
	"math"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Fake is an Interface in memory that refuses what the kernel refuses. It is
// safe for concurrent use.
type Fake struct {
	mu      sync.Mutex
	servers map[ID]Server
	changes int
	batches int
	fail    func(Change) error
	// connections are those of real servers that are there or not.
	connections map[ID]map[netip.AddrPort]uint32
	timeouts    Timeouts
}

// NewFake returns a Fake without virtual servers.
func NewFake() *Fake {
	return &Fake{
		servers: map[ID]Server{}, connections: map[ID]map[netip.AddrPort]uint32{},
		timeouts: Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second},
	}
}

// SetConnections makes a real server have n connections.
func (f *Fake) SetConnections(id ID, real netip.AddrPort, n uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.connections[id] == nil {
		f.connections[id] = map[netip.AddrPort]uint32{}
	}
	f.connections[id][real] = n
}

// Connections implements Interface.
func (f *Fake) Connections(id ID) (map[netip.AddrPort]uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := map[netip.AddrPort]uint32{}
	for addr := range f.servers[id].Real {
		counts[addr] = f.connections[id][addr]
	}
	return counts, nil
}

// Timeouts implements Interface.
func (f *Fake) Timeouts() (Timeouts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.timeouts, nil
}

// SetTimeouts implements Interface.
func (f *Fake) SetTimeouts(t Timeouts) error {
	if err := t.check(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t = t.rounded()
	f.timeouts = Timeouts{
		TCP:    cmp.Or(t.TCP, f.timeouts.TCP),
		TCPFin: cmp.Or(t.TCPFin, f.timeouts.TCPFin),
		UDP:    cmp.Or(t.UDP, f.timeouts.UDP),
	}
	return nil
}

// String is the state in the form of ipvsadm -Sn, sorted.
func (f *Fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Text(f.servers)
}

// Changes is the number of changes that took effect.
func (f *Fake) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Batches is the number of calls of Apply that had a change.
func (f *Fake) Batches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.batches
}

// FailWith makes fn decide, before each change, whether it fails and with
// which error. nil ends that.
func (f *Fake) FailWith(fn func(Change) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fn
}

// List implements Interface.
func (f *Fake) List() (map[ID]Server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	servers := make(map[ID]Server, len(f.servers))
	for id, server := range f.servers {
		servers[id] = server.clone()
	}
	return servers, nil
}

// Get implements Interface.
func (f *Fake) Get(id ID) (Server, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	server, ok := f.servers[id]
	return server.clone(), ok, nil
}

// Apply implements Interface.
func (f *Fake) Apply(changes []Change) []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(changes) > 0 {
		f.batches++
	}
	errs := make([]error, len(changes))
	for i, c := range changes {
		errs[i] = changeError(c, f.apply(c))
		if errs[i] == nil {
			f.changes++
		}
	}
	return errs
}

func (f *Fake) apply(c Change) error {
	if f.fail != nil {
		if err := f.fail(c); err != nil {
			return err
		}
	}
	if err := check(c); err != nil {
		return err
	}
	server, ok := f.servers[c.ID]
	if !ok && c.Op != AddServer {
		return syscall.ESRCH
	}
	switch c.Op {
	case AddServer, SetServer:
		return f.setServer(c, server, ok)
	case DeleteServer:
		delete(f.servers, c.ID)
		return nil
	}
	return setReal(c, server)
}

// schedulers are those of Linux 6.1.
var schedulers = [...]string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"}

func (f *Fake) setServer(c Change, server Server, exists bool) error {
	if exists && c.Op == AddServer {
		return syscall.EEXIST
	}
	if !knownScheduler(c.Config.Scheduler) {
		return syscall.ENOENT
	}
	server.Config = c.Config
	if server.Real == nil {
		server.Real = map[netip.AddrPort]Real{}
	}
	f.servers[c.ID] = server
	return nil
}

func knownScheduler(name string) bool {
	for _, s := range schedulers {
		if s == name {
			return true
		}
	}
	return false
}

func setReal(c Change, server Server) error {
	_, exists := server.Real[c.RealAddr]
	if c.Op == DeleteReal {
		if !exists {
			return syscall.ENOENT
		}
		delete(server.Real, c.RealAddr)
		return nil
	}
	if c.Real.Weight > math.MaxInt32 {
		return syscall.ERANGE
	}
	switch {
	case c.Op == AddReal && exists:
		return syscall.EEXIST
	case c.Op == SetReal && !exists:
		return syscall.ENOENT
	}
	if a := c.RealAddr.Addr(); a.IsUnspecified() || a.IsMulticast() {
		return syscall.EINVAL
	}
	server.Real[c.RealAddr] = c.Real
	return nil
}
