package node

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// attempts are connections that were asked for and are not answered yet, the
// oldest first.
type attempts struct {
	polled []unix.PollFd
	begun  []time.Time
}

// begin asks for another one. That it is refused, or that there is no way, is
// no error: it is not answered.
func (a *attempts) begin(to netip.AddrPort, now time.Time) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != nil && err != unix.EINPROGRESS {
		return unix.Close(fd)
	}
	a.polled = append(a.polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	a.begun = append(a.begun, now)
	return nil
}

// drop ends those that were begun before a time, all for none.
func (a *attempts) drop(before time.Time) {
	for len(a.begun) > 0 && (before.IsZero() || a.begun[0].Before(before)) {
		a.end(0)
	}
}

func (a *attempts) end(i int) {
	_ = unix.Close(int(a.polled[i].Fd))
	a.polled, a.begun = slices.Delete(a.polled, i, i+1), slices.Delete(a.begun, i, i+1)
}

// await waits until somebody answers who is as wanted, and returns when; at
// the deadline it returns no time.
func (a *attempts) await(deadline time.Time, wanted func(netip.Addr) bool) (time.Time, error) {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return time.Time{}, nil
		}
		wait := unix.NsecToTimespec(left.Nanoseconds())
		n, err := unix.Ppoll(a.polled, &wait, nil)
		if err != nil && err != unix.EINTR {
			return time.Time{}, fmt.Errorf("poll: %w", err)
		}
		if n <= 0 {
			continue
		}
		for i := len(a.polled) - 1; i >= 0; i-- {
			if a.polled[i].Revents == 0 {
				continue
			}
			if from, ok := readAnswer(int(a.polled[i].Fd)); ok && wanted(from) {
				return time.Now(), nil
			}
			a.end(i)
		}
	}
}

// readAnswer reads who answered. All of an answer is in one segment.
func readAnswer(fd int) (netip.Addr, bool) {
	var from [4]byte
	n, err := unix.Read(fd, from[:])
	return netip.AddrFrom4(from), err == nil && n == len(from)
}
