package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// freeAddress is one at which nobody listens.
func freeAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// answerAs serves an address: each connection gets the next of the answers,
// and the last one again and again.
func answerAs(t *testing.T, at netip.AddrPort, answers ...[4]byte) {
	t.Helper()
	l, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(answers[0][:])
			conn.Close()
			answers = answers[min(1, len(answers)-1):]
		}
	}()
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestAnswersAreAwaited(t *testing.T) {
	first, second := [4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}
	is := func(want [4]byte) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return a == netip.AddrFrom4(want) }
	}
	at, begin := freeAddress(t), time.Now()
	opened := make(chan time.Time, 1)
	files := openFiles(t)
	time.AfterFunc(50*time.Millisecond, func() { // the refused come first
		opened <- time.Now()
		answerAs(t, at, first, first, second)
	})
	when, err := awaitAnswer(t.Context(), at, is(second), 10*time.Second)
	if early := <-opened; err != nil || when.Before(early) || when.After(time.Now()) {
		t.Errorf("%v after %s: %v", when.Sub(begin), early.Sub(begin), err)
	}
	if now := openFiles(t); now > files+2 { // the listener and Go's poller
		t.Errorf("%d files are open, %d before", now, files)
	}
}

func TestWaitingForAnAnswerEnds(t *testing.T) {
	at := freeAddress(t)
	if _, err := awaitAnswer(t.Context(), at, anybody, 20*time.Millisecond); !errors.Is(err, errWaited) {
		t.Errorf("nobody answers: %v", err)
	}
	gone := errors.New("the proxy ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := awaitAnswer(ctx, at, anybody, time.Minute); !errors.Is(err, gone) {
		t.Errorf("the proxy is gone: %v", err)
	}
}

func pollable(t *testing.T) unix.PollFd {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
}

// What is swallowed on its way is not waited for longer than an attempt takes.
func TestAttemptsEnd(t *testing.T) {
	begin := time.Now()
	var a attempts
	for i := range 3 {
		a.polled = append(a.polled, pollable(t))
		a.begun = append(a.begun, begin.Add(time.Duration(i)*time.Second))
	}
	a.drop(begin.Add(time.Second))
	if len(a.polled) != 2 || len(a.begun) != 2 || !a.begun[0].Equal(begin.Add(time.Second)) {
		t.Errorf("left: %v", a.begun)
	}
	a.drop(time.Time{})
	if len(a.polled)+len(a.begun) != 0 {
		t.Errorf("left: %v", a.begun)
	}
}
