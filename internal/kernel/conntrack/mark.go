package conntrack

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// edit is what becomes of the bits in an entry's mark.
type edit uint8

const (
	keep edit = iota
	add
	remove
)

// compare counts an entry that has all of the bits, and says what is to be
// done about one whose mark is not as wanted.
func (m *Marks) compare(mark, bits uint32, want bool) edit {
	if mark&bits == bits {
		m.Total++
	}
	switch {
	case want && mark&bits != bits:
		return add
	case !want && mark&bits != 0:
		return remove
	}
	return keep
}

// did counts an edit that was made of an entry with a mark.
func (m *Marks) did(e edit, mark, bits uint32) {
	switch {
	case e == add:
		m.Added++
		m.Total++
	case e == remove:
		m.Removed++
		if mark&bits == bits {
			m.Total--
		}
	}
}

// marking is an entry whose mark is to be changed.
type marking struct {
	request netlink.Message
	edit    edit
	mark    uint32
}

// Mark implements Interface. The entries are decoded one by one as they come:
// there may be hundreds of thousands.
func (k *Kernel) Mark(family inet.Family, bits uint32, want func(Entry) bool) (Marks, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, err := k.markAll(family, bits, want)
	if err != nil {
		err = fmt.Errorf("conntrack -U -f %s -m %#x/%#x: %w", strings.ToLower(family.String()), bits, bits, err)
	}
	return m, err
}

func (k *Kernel) markAll(family inet.Family, bits uint32, want func(Entry) bool) (m Marks, err error) {
	if err := k.openBulk(); err != nil {
		return m, err
	}
	var todo []marking
	err = k.bulk.Query(list(family), func(body []byte) error {
		e, err := decodeEntry(body)
		if err != nil {
			return err
		}
		change := m.compare(e.mark, bits, want(e.public()))
		if change == keep {
			return nil
		}
		request, err := e.marking(bits, change)
		todo = append(todo, marking{request, change, e.mark})
		return err
	})
	if err == nil {
		err = k.carryOut(todo, bits, &m)
	}
	return m, k.failed(err)
}

// carryOut changes marks.
func (k *Kernel) carryOut(todo []marking, bits uint32, m *Marks) error {
	requests := make([]netlink.Message, len(todo))
	for i := range todo {
		requests[i] = todo[i].request
	}
	errnos, err := k.bulk.Exchange(requests)
	errs := []error{err}
	for i, errno := range errnos {
		switch {
		case errno == 0:
			m.did(todo[i].edit, todo[i].mark, bits)
		case errno != unix.ENOENT:
			errs = append(errs, &nlsock.Refusal{Errno: errno})
		case todo[i].mark&bits == bits:
			m.Total-- // it ended meanwhile
		}
	}
	return errors.Join(errs...)
}

// openBulk opens the socket for what takes many messages.
func (k *Kernel) openBulk() error {
	if k.bulk != nil {
		return nil
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	if k.bulk, err = nlsock.New(conn); err != nil {
		conn.Close()
	}
	return err
}

// failed takes note of an error: after one, answers may still be on their way
// to the socket.
func (k *Kernel) failed(err error) error {
	if err == nil {
		return nil
	}
	k.bulk.Close()
	k.bulk = nil
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// list asks for all entries of a family.
func list(family inet.Family) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: messageGet, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{dump{family: family}.number(), unix.NFNETLINK_V0, 0, 0},
	}
}

// public is the entry as callers see it.
func (e entry) public() Entry {
	return Entry{e.original.protocol, e.original.src, e.original.dst, e.reply.src, e.reply.dst}
}

// marking changes the bits of an entry's mark. It names the entry without its
// number, which the kernel compares in deletions only; one that took its place
// is the same flow.
func (e entry) marking(bits uint32, change edit) (netlink.Message, error) {
	enc := netlink.NewAttributeEncoder()
	for _, name := range e.names {
		if name.Type != attrID {
			enc.Bytes(name.Type, name.Data)
		}
	}
	value := bits
	if change == remove {
		value = 0
	}
	enc.Bytes(attrMark, bigEndian(value))
	enc.Bytes(attrMarkMask, bigEndian(bits))
	body, err := enc.Encode()
	return netlink.Message{
		Header: netlink.Header{Type: messageNew, Flags: netlink.Request},
		Data:   append([]byte{e.family, unix.NFNETLINK_V0, 0, 0}, body...),
	}, err
}
