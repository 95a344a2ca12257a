package ipvs

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"
	"syscall"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"

	"github.com/kube-router/kube-router/internal/kernel/module"
	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// Kernel is IPVS of the calling thread's network namespace. It is safe for
// concurrent use.
type Kernel struct {
	mu     sync.Mutex
	socket *nlsock.Socket // nil after answers got lost
	family netlink.HeaderType
}

var _ Interface = (*Kernel)(nil)

// Open connects to the kernel's IPVS. Where that is not there, asking for its
// generic netlink family makes the kernel load ip_vs by the module's alias; if
// that is of no avail, "modprobe ip_vs" is tried. The error wraps
// ErrUnavailable where both fail.
func Open() (*Kernel, error) {
	k := &Kernel{}
	err := k.dial()
	if !errors.Is(err, fs.ErrNotExist) {
		return opened(k, err)
	}
	if err := module.Load("ip_vs"); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	err = k.dial()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the module is there, its netlink family is not", ErrUnavailable)
	}
	return opened(k, err)
}

func opened(k *Kernel, err error) (*Kernel, error) {
	if err != nil {
		return nil, fmt.Errorf("cannot reach IPVS through netlink: %w", err)
	}
	return k, nil
}

// dial opens the socket and finds the number of IPVS's family.
func (k *Kernel) dial() error {
	conn, err := netlink.Dial(genetlink.Protocol, nil)
	if err != nil {
		return err
	}
	family, err := genetlink.NewConn(conn).GetFamily(familyName)
	if err != nil {
		conn.Close()
		return err
	}
	if k.socket, err = nlsock.New(conn); err != nil {
		conn.Close()
		return err
	}
	k.family = netlink.HeaderType(family.ID)
	return nil
}

// request is a message to the family.
func (k *Kernel) request(flags netlink.HeaderFlags, body []byte) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: k.family, Flags: netlink.Request | flags}, Data: body}
}

// Close frees the socket.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.socket == nil {
		return nil
	}
	err := k.socket.Close()
	k.socket = nil
	return err
}

// ready dials again after the socket had to be given up.
func (k *Kernel) ready() error {
	if k.socket != nil {
		return nil
	}
	return k.dial()
}

// abandon gives up a socket that may still hold answers to what was asked.
func (k *Kernel) abandon() {
	k.socket.Close()
	k.socket = nil
}

// List implements Interface.
func (k *Kernel) List() (map[ID]Server, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	servers := map[ID]Server{}
	err := k.query(begin(nil, cmdGetService), netlink.Dump, func(body []byte) error {
		id, config, ok, err := decodeService(body)
		if ok {
			servers[id] = Server{Config: config}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ipvsadm -L: %w", err)
	}
	reals, err := readReals()
	if err != nil {
		return nil, fmt.Errorf("ipvsadm -L: %w", err)
	}
	for id, server := range servers {
		if server.Real = reals[id]; server.Real == nil {
			server.Real = map[netip.AddrPort]Real{}
		}
		servers[id] = server
	}
	return servers, nil
}

// Get implements Interface.
func (k *Kernel) Get(id ID) (server Server, ok bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.query(service(cmdGetService, id), 0, func(body []byte) error {
		_, server.Config, ok, err = decodeService(body)
		return err
	})
	if errors.Is(err, syscall.ESRCH) {
		return Server{}, false, nil
	}
	if err != nil {
		return Server{}, false, fmt.Errorf("ipvsadm -L %s: %w", id, err)
	}
	server.Real, err = k.reals(id)
	return server, ok && err == nil, err
}

func (k *Kernel) reals(id ID) (map[netip.AddrPort]Real, error) {
	reals := map[netip.AddrPort]Real{}
	err := k.destinations(id, func(d destination) { reals[d.addr] = d.real })
	return reals, err
}

// Connections implements Interface.
func (k *Kernel) Connections(id ID) (map[netip.AddrPort]uint32, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	counts := map[netip.AddrPort]uint32{}
	err := k.destinations(id, func(d destination) { counts[d.addr] = d.connections })
	return counts, err
}

func (k *Kernel) destinations(id ID, fn func(destination)) error {
	err := k.query(service(cmdGetDest, id), netlink.Dump, func(body []byte) error {
		d, err := decodeDest(body, id)
		if err == nil {
			fn(d)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("ipvsadm -L %s: %w", id, err)
	}
	return nil
}

// service asks about a virtual server.
func service(command uint8, id ID) *nlsock.Encoder {
	e := begin(nil, command)
	e.Nest(attrService, func() { putID(e, id) })
	return e
}

// query asks the kernel and calls fn for each message of its answer.
func (k *Kernel) query(question *nlsock.Encoder, flags netlink.HeaderFlags, fn func([]byte) error) error {
	if err := k.ready(); err != nil {
		return err
	}
	err := k.socket.Query(k.request(flags, question.B), fn)
	if refused := (*nlsock.Refusal)(nil); err != nil && !errors.As(err, &refused) {
		k.abandon()
	}
	return err
}

// Apply implements Interface.
func (k *Kernel) Apply(changes []Change) []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	errs := make([]error, len(changes))
	bodies, indexes := make([][]byte, 0, len(changes)), make([]int, 0, len(changes))
	buffer := make([]byte, 0, len(changes)*changeBytes)
	for i, c := range changes {
		if err := check(c); err != nil {
			errs[i] = changeError(c, err)
			continue
		}
		begin := len(buffer)
		buffer = appendChange(buffer, c)
		bodies, indexes = append(bodies, buffer[begin:]), append(indexes, i)
	}
	errnos, err := k.exchange(bodies)
	for n, i := range indexes {
		switch {
		case n >= len(errnos):
			errs[i] = changeError(changes[i], err)
		case errnos[n] != 0:
			errs[i] = changeError(changes[i], errnos[n])
		}
	}
	return errs
}

// changeBytes is what the message of a change takes, and a little more.
const changeBytes = 160

// exchange returns the kernel's answers as far as there are any.
func (k *Kernel) exchange(bodies [][]byte) ([]syscall.Errno, error) {
	if len(bodies) == 0 {
		return nil, nil
	}
	if err := k.ready(); err != nil {
		return nil, err
	}
	requests := make([]netlink.Message, len(bodies))
	for i, body := range bodies {
		requests[i] = k.request(0, body)
	}
	errnos, err := k.socket.Exchange(requests)
	if err != nil {
		k.abandon()
		return errnos, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return errnos, nil
}
