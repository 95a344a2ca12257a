package ipset

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"

	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

const (
	netlinkNetfilter = 12 // NETLINK_NETFILTER
	subsystem        = 6  // NFNL_SUBSYS_IPSET

	// How much goes into one message, and into one send. An attribute is
	// limited to 64 KiB, a send by the socket's buffer (net.core.wmem_max,
	// 208 KiB by default); each message is answered, and the answers of a send
	// must fit the receive buffer.
	entriesPerMessage = 256
	messagesPerSend   = 64
	bytesPerSend      = 64 << 10
)

// Kernel is the IP sets of a network namespace of this host. It is safe for
// concurrent use.
type Kernel struct {
	mu   sync.Mutex
	conn *netlink.Conn
	// specs are the types of the sets met so far, so that an entry can be
	// checked before it is sent. What MaxElem says there is not to be trusted.
	specs map[string]Spec
}

// Open connects to the IP sets of the network namespace of the calling thread.
// It needs CAP_NET_ADMIN there and the kernel's module ip_set.
func Open() (*Kernel, error) {
	conn, err := netlink.Dial(netlinkNetfilter, nil)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket to the kernel's netfilter: %w", err)
	}
	// Answers without the request in them; kernels before 4.3 lack that and
	// send longer ones.
	_ = conn.SetOption(netlink.CapAcknowledge, true)
	k := &Kernel{conn: conn, specs: map[string]Spec{}}
	if err := k.greet(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return k, nil
}

// Close ends the connection. Sets stay as they are.
func (k *Kernel) Close() error { return k.conn.Close() }

// greet makes sure that the kernel speaks our version of the protocol.
func (k *Kernel) greet() error {
	replies, err := k.conn.Execute(request(cmdProtocol, netlink.Request, header("").B))
	if err != nil {
		return fmt.Errorf("asking the kernel for IP sets (load the module ip_set; CAP_NET_ADMIN is needed): %w", translate(err))
	}
	oldest, newest := byte(0), byte(0)
	for _, m := range replies {
		if len(m.Data) < 4 {
			return fmt.Errorf("asking the kernel for IP sets: %w", errTruncated)
		}
		err = errors.Join(err, nlsock.Attributes(m.Data[4:], func(typ uint16, data []byte) (err error) {
			switch typ {
			case attrProtocol:
				newest, err = number8(data)
			case attrProtocolMin:
				oldest, err = number8(data)
			}
			return err
		}))
	}
	if oldest == 0 {
		oldest = newest
	}
	if err == nil && (oldest > protocolVersion || newest < protocolVersion) {
		err = fmt.Errorf("the kernel speaks protocol %d to %d, not %d", oldest, newest, protocolVersion)
	}
	return err
}

func request(command uint16, flags netlink.HeaderFlags, payload []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | command), Flags: netlink.Request | flags},
		Data:   payload,
	}
}

// List implements Interface. Sets of others are not read, only their names.
func (k *Kernel) List(prefixes ...string) (map[string]Set, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	names, foreign, err := k.names(prefixes)
	if err != nil {
		return nil, err
	}
	l := &listing{want: func(name string) bool { return hasPrefix(name, prefixes) }, sets: map[string]Set{}}
	if !foreign && len(names) > 0 {
		return l.sets, k.dump(header("").B, l.message)
	}
	for _, name := range names {
		err := k.dump(header(name).B, l.message)
		if err != nil && !errors.Is(err, ErrNotExist) {
			return nil, err
		}
	}
	return l.sets, nil
}

// names lists the sets with one of the prefixes, and says whether there are
// others.
func (k *Kernel) names(prefixes []string) (names []string, foreign bool, err error) {
	e := header("")
	e.put32(attrFlags, flagListSetName)
	err = k.dump(e.B, func(payload []byte) error {
		if len(payload) < 4 {
			return errTruncated
		}
		return nlsock.Attributes(payload[4:], func(typ uint16, data []byte) error {
			if typ != attrSetName {
				return nil
			}
			name, err := text(data)
			if hasPrefix(name, prefixes) {
				names = append(names, name)
			} else {
				foreign = true
			}
			return err
		})
	})
	return names, foreign, err
}

// lookUp asks what a set was created with, and remembers it.
func (k *Kernel) lookUp(name string) (Spec, error) {
	spec, err := k.spec(name)
	if err != nil {
		return Spec{}, err
	}
	if spec.Type == "" {
		return Spec{}, fmt.Errorf("the kernel did not tell the type of set %s", name)
	}
	k.specs[name] = spec
	return spec, nil
}

// spec reads what a set was created with.
func (k *Kernel) spec(name string) (Spec, error) {
	l := &listing{want: func(n string) bool { return n == name }, sets: map[string]Set{}}
	e := header(name)
	e.put32(attrFlags, flagListHeader)
	err := k.dump(e.B, l.message)
	return l.sets[name].Spec, err
}

// dump sends IPSET_CMD_LIST and hands each message of the answer to read.
func (k *Kernel) dump(payload []byte, read func([]byte) error) error {
	replies, err := k.conn.Execute(request(cmdList, netlink.Dump, payload))
	if err != nil {
		k.drain()
		return fmt.Errorf("listing IP sets: %w", translate(err))
	}
	for _, m := range replies {
		if m.Header.Type == netlink.Error || m.Header.Type == netlink.Done {
			continue
		}
		if err := read(m.Data); err != nil {
			return fmt.Errorf("listing IP sets: the kernel's answer: %w", err)
		}
	}
	return nil
}

// drain throws away answers that are still queued after a failure, so that
// they are not taken for those of the next request. The kernel answers before
// a send returns, so that nothing can come later.
func (k *Kernel) drain() {
	defer func() { _ = k.conn.SetReadDeadline(time.Time{}) }()
	for range messagesPerSend {
		_ = k.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := k.conn.Receive(); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

// translate turns an errno of ipset (IPSET_ERR_*) into the package's errors.
func translate(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	if meaning, ok := refusals[errno]; ok {
		return meaning
	}
	return err
}

// refusals are the errnos of ipset, which begin at 4096.
var refusals = map[syscall.Errno]error{
	syscall.ENOENT: ErrNotExist,
	syscall.EEXIST: ErrExist,
	4097:           fmt.Errorf("%w: the kernel did not understand the request", ErrInvalid),
	4098:           errors.New("the kernel has no such type of set: load the module ip_set_hash_*"),
	4099:           errors.New("there are too many sets (module parameter max_sets of ip_set)"),
	4100:           ErrInUse,
	4101:           ErrNotExist, // the second set of a swap
	4102:           ErrTypeMismatch,
	4103:           ErrExist,
	4104:           fmt.Errorf("%w: bad prefix length", ErrInvalid),
	4106:           fmt.Errorf("%w: bad address family", ErrInvalid),
	4109:           fmt.Errorf("%w: not an IPv4 address", ErrInvalid),
	4110:           fmt.Errorf("%w: not an IPv6 address", ErrInvalid),
	4352:           ErrFull,
	4353:           fmt.Errorf("%w: the set cannot hold the element", ErrInvalid),
	4354:           fmt.Errorf("%w: bad protocol", ErrInvalid),
}
