// Package nlsock sends many netlink requests in one system call and tells what
// became of each, which the libraries for netlink do not.
package nlsock

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// BatchSize bounds how many answers can be under way: each takes about
	// 1 kB of the socket's receive buffer, which is 208 kB by default.
	BatchSize = 128
	// answerTimeout is a safeguard. The kernel carries requests out within the
	// call that sends them, so that the answer is there when it returns.
	answerTimeout = 10 * time.Second
	// datagramSize is the most that the kernel puts into one datagram.
	datagramSize = 32 << 10
)

// Socket is a netlink socket. An error of its methods that is not a *Refusal
// means that answers were lost: it must be closed and not used again. It is not
// safe for concurrent use.
type Socket struct {
	conn   *netlink.Conn
	raw    syscall.RawConn
	buffer []byte // of answers
	// out are the requests of one call of Exchange, and sequence is the number of
	// the next.
	out      []byte
	sequence uint32
}

// Refusal is the kernel's answer that it did not do what was asked.
type Refusal struct{ Errno syscall.Errno }

func (r *Refusal) Error() string { return r.Errno.Error() }
func (r *Refusal) Unwrap() error { return r.Errno }

// New takes over a connection.
func New(conn *netlink.Conn) (*Socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Both only save memory of the socket: answers without the request in
	// them, and room for more of them than BatchSize asks for.
	_ = conn.SetOption(netlink.CapAcknowledge, true)
	_ = conn.SetReadBuffer(1 << 20)
	return &Socket{conn: conn, raw: raw, buffer: make([]byte, datagramSize)}, nil
}

// Close frees the socket.
func (s *Socket) Close() error { return s.conn.Close() }

// Exchange sends the requests, at most BatchSize in one call, and returns the
// kernel's error for each, 0 where it did what was asked. Only the last of a
// call asks for an acknowledgement: the kernel answers in order, and always
// answers what it refuses.
func (s *Socket) Exchange(requests []netlink.Message) ([]syscall.Errno, error) {
	errnos := make([]syscall.Errno, 0, len(requests))
	for len(requests) > 0 {
		n := min(BatchSize, len(requests))
		part, err := s.exchange(requests[:n])
		errnos = append(errnos, part...)
		if err != nil {
			return errnos, err
		}
		requests = requests[n:]
	}
	return errnos, nil
}

func (s *Socket) exchange(requests []netlink.Message) ([]syscall.Errno, error) {
	requests[len(requests)-1].Header.Flags |= netlink.Acknowledge
	first := s.sequence
	s.out = s.out[:0]
	for _, r := range requests {
		s.out = appendRequest(s.out, r, s.sequence)
		s.sequence++
	}
	if err := s.write(); err != nil {
		return nil, err
	}
	errnos := make([]syscall.Errno, len(requests))
	for done := false; !done; {
		err := s.receive(func(a Answer) error {
			i := a.Sequence - first
			if a.Kind != unix.NLMSG_ERROR || i >= uint32(len(errnos)) {
				return nil
			}
			var err error
			errnos[i], err = a.Errno()
			done = done || i == uint32(len(errnos)-1)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return errnos, nil
}

// appendRequest appends a struct nlmsghdr and what follows.
func appendRequest(b []byte, r netlink.Message, sequence uint32) []byte {
	length := unix.SizeofNlMsghdr + len(r.Data)
	b = binary.NativeEndian.AppendUint32(b, uint32(length))
	b = binary.NativeEndian.AppendUint16(b, uint16(r.Header.Type))
	b = binary.NativeEndian.AppendUint16(b, uint16(r.Header.Flags))
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = binary.NativeEndian.AppendUint32(b, 0) // the kernel knows the sender
	b = append(b, r.Data...)
	return append(b, make([]byte, -length&3)...)
}

// write sends out as one datagram.
func (s *Socket) write() (err error) {
	waitErr := s.raw.Write(func(fd uintptr) bool {
		for {
			_, err = unix.Write(int(fd), s.out)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	return errors.Join(err, waitErr)
}

// ErrInterrupted is returned by Query where what was listed changed meanwhile:
// the list may lack what was there all the time.
var ErrInterrupted = errors.New("the kernel's list changed while it was read")

// Query sends one request and calls fn with the body of each message that
// answers it.
func (s *Socket) Query(request netlink.Message, fn func(body []byte) error) error {
	sent, err := s.conn.Send(request)
	if err != nil {
		return err
	}
	var refused, interrupted error
	for done := false; !done; {
		err := s.receive(func(a Answer) error {
			if a.Sequence != sent.Header.Sequence {
				return nil
			}
			if a.Flags&unix.NLM_F_DUMP_INTR != 0 {
				interrupted = ErrInterrupted
			}
			switch a.Kind {
			case unix.NLMSG_DONE:
				done = true
				return nil
			case unix.NLMSG_ERROR:
				done = true
				errno, err := a.Errno()
				if errno != 0 {
					refused = &Refusal{errno}
				}
				return err
			}
			done = a.Flags&unix.NLM_F_MULTI == 0
			return fn(a.Body)
		})
		if err != nil {
			return err
		}
	}
	return cmp.Or(refused, interrupted)
}

// receive reads one datagram and calls fn for each message in it. (Conn's own
// Receive would turn an error message into an error and lose which request it
// answers.)
func (s *Socket) receive(fn func(Answer) error) error {
	n, err := s.read(false)
	if errors.Is(err, unix.EAGAIN) {
		n, err = s.read(true)
	}
	if err != nil {
		return err
	}
	return DecodeAnswers(s.buffer[:n], fn)
}

// read reads one datagram; wait says whether to wait for it.
func (s *Socket) read(wait bool) (n int, err error) {
	if wait {
		if err := s.conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
			return 0, err
		}
		defer s.conn.SetReadDeadline(time.Time{})
	}
	waitErr := s.raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), s.buffer, unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return !wait || !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	return n, errors.Join(err, waitErr)
}

// ErrMalformed is an answer that the kernel would not give.
var ErrMalformed = errors.New("the kernel's answer is malformed")

// Answer is a message of the kernel (struct nlmsghdr and what follows).
type Answer struct {
	Kind     uint16
	Flags    uint16
	Sequence uint32
	Body     []byte
}

// Errno is the content of an NLMSG_ERROR: 0 is an acknowledgement.
func (a Answer) Errno() (syscall.Errno, error) {
	if len(a.Body) < 4 {
		return 0, fmt.Errorf("%w: error message of %d bytes", ErrMalformed, len(a.Body))
	}
	return syscall.Errno(-int32(binary.NativeEndian.Uint32(a.Body))), nil
}

// DecodeAnswers calls fn for each message in a datagram. A body is valid only
// until fn returns.
func DecodeAnswers(b []byte, fn func(Answer) error) error {
	const header = unix.SizeofNlMsghdr
	for len(b) > 0 {
		if len(b) < header {
			return fmt.Errorf("%w: %d bytes of a header", ErrMalformed, len(b))
		}
		length := binary.NativeEndian.Uint32(b)
		if length < header || length > uint32(len(b)) {
			return fmt.Errorf("%w: message of %d bytes in %d", ErrMalformed, length, len(b))
		}
		err := fn(Answer{
			Kind:     binary.NativeEndian.Uint16(b[4:]),
			Flags:    binary.NativeEndian.Uint16(b[6:]),
			Sequence: binary.NativeEndian.Uint32(b[8:]),
			Body:     b[header:length],
		})
		if err != nil {
			return err
		}
		b = b[min(len(b), int(length+3)&^3):]
	}
	return nil
}
