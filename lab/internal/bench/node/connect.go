package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// connect opens a connection and returns who answered on it.
func connect(ctx context.Context, to netip.AddrPort) (netip.Addr, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp4", to.String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	var from [4]byte
	if _, err := io.ReadFull(conn, from[:]); err != nil {
		return netip.Addr{}, err
	}
	return netip.AddrFrom4(from), nil
}

// errWaited says that something did not happen in its time.
var errWaited = errors.New("waited in vain")

const (
	// finest is the finest resolution of a waiting time, coarsest the coarsest;
	// between them it is a twentieth of the time. The guest has one processor:
	// what attempts take of it, the proxy does not have.
	finest   = 2 * time.Millisecond
	coarsest = 100 * time.Millisecond
	// attemptTime is how long an attempt may take: less than the second after
	// which TCP repeats a lost packet, so that each success is a new attempt's.
	attemptTime = 400 * time.Millisecond
)

// pause is the time between two attempts when some time has been waited.
func pause(waited time.Duration) time.Duration {
	return min(max(waited/20, finest), coarsest)
}

// awaitAnswer tries to connect again and again until somebody answers who is
// as wanted, and returns when. Attempts do not wait for each other: one whose
// packet was lost must not hide that the next would succeed. It works with
// system calls on one thread: goroutines, deadlines and Go's own poller take
// several times the processor time of an attempt.
func awaitAnswer(ctx context.Context, to netip.AddrPort, wanted func(netip.Addr) bool, limit time.Duration) (time.Time, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var a attempts
	defer a.drop(time.Time{})
	for begin := time.Now(); ; {
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return time.Time{}, context.Cause(ctx)
		case now.Sub(begin) > limit:
			return time.Time{}, fmt.Errorf("%w: %s for %s", errWaited, to, limit)
		}
		a.drop(now.Add(-attemptTime))
		if err := a.begin(to, now); err != nil {
			return time.Time{}, err
		}
		answered, err := a.await(now.Add(pause(now.Sub(begin))), wanted)
		if err != nil || !answered.IsZero() {
			return answered, err
		}
	}
}

func anybody(netip.Addr) bool { return true }

// sequenceTimeout bounds one connection of a sequence, in seconds.
const sequenceTimeout = 10

// timeConnect measures one connection, from the first packet to the answer to
// it, with system calls that block: no scheduler of Go is in the time.
func timeConnect(to netip.AddrPort) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	bound := unix.Timeval{Sec: sequenceTimeout}
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &bound); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return time.Since(begin), fmt.Errorf("connect to %s: %w", to, err)
	}
	took := time.Since(begin)
	// The whole answer and the end of the stream, which the server is first
	// to close.
	for got, buf := 1, make([]byte, 16); got > 0; {
		if got, err = unix.Read(fd, buf); err != nil && !errors.Is(err, unix.EINTR) {
			return took, fmt.Errorf("read from %s: %w", to, err)
		}
	}
	return took, nil
}
