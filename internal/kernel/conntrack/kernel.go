package conntrack

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// Kernel is the table of the calling thread's network namespace. It is safe
// for concurrent use.
type Kernel struct {
	mu   sync.Mutex
	conn *netlink.Conn  // nil after it failed
	bulk *nlsock.Socket // of Mark: nil before it is used and after it failed
}

var _ Interface = (*Kernel)(nil)

// Open connects to the kernel, which loads nf_conntrack_netlink when it is
// first asked for entries.
func Open() (*Kernel, error) {
	k := &Kernel{}
	if err := k.dial(); err != nil {
		return nil, fmt.Errorf("cannot reach connection tracking through netlink: %w", err)
	}
	return k, nil
}

func (k *Kernel) dial() error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	k.conn = conn
	return nil
}

// Close frees the socket.
func (k *Kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	if k.conn != nil {
		errs = append(errs, k.conn.Close())
	}
	if k.bulk != nil {
		errs = append(errs, k.bulk.Close())
	}
	k.conn, k.bulk = nil, nil
	return errors.Join(errs...)
}

// Delete implements Interface.
func (k *Kernel) Delete(list []Flow) (deleted int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wanted, err := newFlows(list)
	errs := []error{err}
	for d := range wanted.dumps() {
		n, err := k.deleteAll(d, wanted)
		deleted += n
		if err != nil {
			errs = append(errs, fmt.Errorf("conntrack -D -f %s -p %s: %w", strings.ToLower(d.family.String()), d.protocol, err))
		}
	}
	return deleted, errors.Join(errs...)
}

// deleteAll deletes the wanted entries of one protocol and family.
func (k *Kernel) deleteAll(d dump, wanted flows) (deleted int, err error) {
	request, err := d.message()
	if err != nil {
		return 0, err
	}
	messages, err := k.execute(request)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, m := range messages {
		e, err := decodeEntry(m.Data)
		if err == nil && wanted.match(e.original, e.reply) {
			err = k.deleteEntry(e)
			if err == nil {
				deleted++
			}
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, err)
		}
	}
	return deleted, errors.Join(errs...)
}

func (k *Kernel) deleteEntry(e entry) error {
	request, err := e.deletion()
	if err != nil {
		return err
	}
	_, err = k.execute(request)
	return err
}

// execute sends a request and returns its answers. A socket that failed is
// replaced for the next one, since answers may still be on their way to it.
func (k *Kernel) execute(request netlink.Message) ([]netlink.Message, error) {
	if k.conn == nil {
		if err := k.dial(); err != nil {
			return nil, err
		}
	}
	answers, err := k.conn.Execute(request)
	switch {
	case errors.Is(err, unix.ENOENT):
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	case err != nil:
		k.conn.Close()
		k.conn = nil
	}
	return answers, err
}
