package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// batchSize bounds how many answers can be under way: each takes about
	// 1 kB of the socket's receive buffer, which is 208 kB by default.
	batchSize = 128
	// answerTimeout is a safeguard. The kernel carries changes out within the
	// call that sends them, so that answers are there when it returns.
	answerTimeout = 10 * time.Second
	// dumpSize is the most that the kernel puts into one datagram of a dump.
	dumpSize = 32 << 10
	// ackSize is more than an answer with the request in it.
	ackSize = 4 << 10
)

// request is a message to the kernel, without its sequence number.
func request(family uint16, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(family), Flags: netlink.Request | flags},
		Data:   data,
	}
}

// exchange sends the messages in one call and returns the kernel's error for
// each. Only the last asks for an acknowledgement: the kernel answers in
// order, and always answers what it refuses. An err means that answers were
// lost; the socket must not be used again.
func exchange(conn *netlink.Conn, messages []netlink.Message) (errnos []syscall.Errno, err error) {
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	if err := conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	sent, err := conn.SendMessages(messages)
	if err != nil {
		return nil, err
	}
	errnos = make([]syscall.Errno, len(sent))
	first := sent[0].Header.Sequence
	buffer := make([]byte, ackSize)
	for done := false; !done; {
		n, err := receive(conn, buffer)
		if err != nil {
			return nil, err
		}
		err = decodeAcks(buffer[:n], func(sequence uint32, errno syscall.Errno) {
			if i := sequence - first; i < uint32(len(errnos)) {
				errnos[i] = errno
				done = done || i == uint32(len(errnos)-1)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return errnos, nil
}

// receive reads one datagram as it is: netlink.Conn's Receive would turn an
// error message into an error and lose which message it belongs to.
func receive(conn *netlink.Conn, buffer []byte) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	return n, errors.Join(err, waitErr)
}

// decodeAcks calls fn for each NLMSG_ERROR in a datagram: a header of 16 bytes
// with length, type and sequence number, then the negative errno, 0 for an
// acknowledgement.
func decodeAcks(b []byte, fn func(sequence uint32, errno syscall.Errno)) error {
	const header = unix.SizeofNlMsghdr
	for len(b) > 0 {
		if len(b) < header {
			return fmt.Errorf("%w: %d bytes of a header", errMalformed, len(b))
		}
		length := int(binary.NativeEndian.Uint32(b))
		if length < header || length > len(b) {
			return fmt.Errorf("%w: message of %d bytes in %d", errMalformed, length, len(b))
		}
		if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
			if length < header+4 {
				return fmt.Errorf("%w: error message of %d bytes", errMalformed, length)
			}
			errno := -int32(binary.NativeEndian.Uint32(b[header:]))
			fn(binary.NativeEndian.Uint32(b[8:]), syscall.Errno(errno))
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return nil
}
