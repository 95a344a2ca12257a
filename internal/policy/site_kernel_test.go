//go:build kernel

package policy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// site is a network namespace with a thread of its own: a Pod, a node, or the
// world outside. The addresses that others may reach are served on all of
// portNumbers, TCP and UDP.
type site struct {
	name  string
	path  string // of the namespace
	addrs []netip.Addr
	jobs  chan func()
}

// newSite makes a namespace. here is true for that of the test itself, which
// the test's own goroutine works for.
func newSite(t *testing.T, name string, here bool, addrs ...string) *site {
	t.Helper()
	s := &site{name: name}
	for _, a := range addrs {
		s.addrs = append(s.addrs, netip.MustParseAddr(a))
	}
	locate := func() { s.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()) }
	if here {
		locate()
		s.set(t, atOnce)
		return s
	}
	s.jobs = make(chan func())
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the namespace ends with the thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		locate()
		ready <- err
		for job := range s.jobs {
			job()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("cannot make a network namespace (kernel tests need root): %v", err)
	}
	t.Cleanup(func() { close(s.jobs) })
	s.set(t, atOnce)
	s.run(t, "link set lo up")
	return s
}

// atOnce lets IPv6 addresses be used as soon as they are there, link-local
// ones too, from which neighbours are asked for.
var atOnce = map[string]string{"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0"}

// do runs fn in the namespace.
func (s *site) do(fn func()) {
	if s.jobs == nil {
		fn()
		return
	}
	done := make(chan struct{})
	s.jobs <- func() { defer close(done); fn() }
	<-done
}

// run runs lines of "ip".
func (s *site) run(t *testing.T, lines ...string) {
	t.Helper()
	s.do(func() {
		for _, line := range lines {
			nstest.Run(t, "ip", strings.Fields(line)...)
		}
	})
}

// set writes sysctls.
func (s *site) set(t *testing.T, sysctls map[string]string) {
	t.Helper()
	s.do(func() {
		for name, value := range sysctls {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				t.Errorf("this test needs the sysctl: %v", err)
			}
		}
	})
}

// serve answers on all ports of the addresses until the test ends.
func (s *site) serve(t *testing.T) {
	t.Helper()
	s.do(func() {
		for _, addr := range s.addrs {
			for _, port := range portNumbers {
				at := netip.AddrPortFrom(addr, uint16(port))
				tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
				if err != nil {
					t.Errorf("%s: %v", s.name, err)
					return
				}
				udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
				if err != nil {
					t.Errorf("%s: %v", s.name, err)
					return
				}
				t.Cleanup(func() { tcp.Close(); udp.Close() })
				go accept(tcp)
				go echo(udp)
			}
		}
	})
}

func accept(l *net.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

func echo(c *net.UDPConn) {
	var buffer [64]byte
	for {
		n, from, err := c.ReadFromUDPAddrPort(buffer[:])
		if err != nil {
			return
		}
		_, _ = c.WriteToUDPAddrPort(buffer[:n], from)
	}
}

// patience is how long a packet may take here. Nothing is lost, so that only
// a fault takes as long.
const patience = 2 * time.Second

// try makes a connection and says whether it came about. What is denied is
// refused at once: an error is anything else, such as no answer.
func (s *site) try(f flow, fromPort uint16) (passes bool, err error) {
	from, to := netip.AddrPortFrom(f.src, fromPort), netip.AddrPortFrom(f.dst, uint16(f.port))
	s.do(func() {
		if f.protocol == corev1.ProtocolTCP {
			err = tryTCP(from, to)
		} else {
			err = tryUDP(from, to)
		}
	})
	if errors.Is(err, syscall.ECONNREFUSED) {
		return false, nil
	}
	return err == nil, err
}

// tryTCP connects. An answer that comes back before connect has returned, as
// it may on one machine, only waits in the socket's queue of errors (ip(7),
// IP_RECVERR); without that it would take another second, and another packet.
func tryTCP(from, to netip.AddrPort) error {
	family, level, option := unix.AF_INET, unix.SOL_IP, unix.IP_RECVERR
	if to.Addr().Is6() {
		family, level, option = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_RECVERR
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = errors.Join(unix.SetsockoptInt(fd, level, option, 1), unix.Bind(fd, sockaddr(from)))
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != unix.EINPROGRESS {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(poll, int(patience.Milliseconds())); n != 1 {
		return fmt.Errorf("no answer: %w", cmp.Or(err, os.ErrDeadlineExceeded))
	}
	if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); code != 0 || err != nil {
		return cmp.Or(err, error(syscall.Errno(code)))
	}
	return queuedError(fd)
}

// queuedError is the first of a socket's queue, or nil. A sock_extended_err
// begins with its number.
func queuedError(fd int) error {
	control := make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 512), control, unix.MSG_ERRQUEUE)
	if err == unix.EAGAIN {
		return nil
	}
	messages, parseErr := unix.ParseSocketControlMessage(control[:n])
	if err := errors.Join(err, parseErr); err != nil {
		return err
	}
	for _, m := range messages {
		if len(m.Data) >= 4 {
			return syscall.Errno(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return errors.New("an error without a number")
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// tryUDP asks until it has an answer: a refusal may be lost, as where the node
// has to find its neighbour first.
func tryUDP(from, to netip.AddrPort) error {
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	for end := time.Now().Add(patience); ; {
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(patience / 20))
		_, err = c.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(end) {
			return err
		}
	}
}
