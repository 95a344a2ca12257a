// Package node measures one Service proxy from inside the node that it runs
// on. Everything is in one process, so that all times are of one clock.
package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/lab/internal/bench/load"
)

const (
	answering = "bench-answers" // the network namespace of all endpoints
	void      = "bench-void"    // the device of packets to Services that do not work
)

// layOut makes the network of the measurement: a namespace in which every
// address of load.Answering is local, and a device that swallows what is sent
// to the Service range as long as no proxy takes it. Without it such packets
// would leave the node, and return as errors of whoever is there.
func layOut() error {
	source, err := nodeAddress()
	if err != nil {
		return err
	}
	script := []string{
		"netns add " + answering,
		"link add bench0 type veth peer name bench1 netns " + answering,
		"address add " + load.PodGateway.String() + " dev bench0",
		"link set bench0 up",
		"link add " + void + " type dummy",
		"link set " + void + " up",
		"route add " + load.ServiceRange.String() + " dev " + void + " src " + source,
	}
	if err := ip(script); err != nil {
		return err
	}
	return ip([]string{
		"link set lo up",
		"address add " + load.PodNamespace.String() + " dev bench1",
		"link set bench1 up",
		"route add local " + load.Answering.String() + " dev lo",
		"route add default via " + load.PodGateway.Addr().String(),
	}, "-netns", answering)
}

func nodeAddress() (string, error) {
	link, err := net.InterfaceByName("vec0")
	if err != nil {
		return "", fmt.Errorf("the node's link: %w", err)
	}
	addresses, err := link.Addrs()
	if err != nil || len(addresses) == 0 {
		return "", fmt.Errorf("the node has no address on vec0: %w", err)
	}
	address, _, _ := strings.Cut(addresses[0].String(), "/")
	return address, nil
}

func ip(lines []string, options ...string) error {
	cmd := exec.Command("ip", append(options, "-batch", "-")...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// answer serves all endpoints: to every connection it says which address was
// reached, and closes it first, so that the client's port is free at once.
func answer() error {
	listener, err := listenIn("/run/netns/"+answering, fmt.Sprintf("0.0.0.0:%d", load.Port))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			local := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().As4()
			_, _ = conn.Write(local[:])
			conn.Close()
		}
	}()
	return nil
}

// listenIn listens inside a network namespace. The socket stays in it, the
// thread does not.
func listenIn(namespace, address string) (net.Listener, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	there, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", namespace, err)
	}
	listener, err := net.Listen("tcp4", address)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, fmt.Errorf("leave %s: %w", namespace, back) // the thread is not unlocked: it ends with its goroutine
	}
	runtime.UnlockOSThread()
	return listener, err
}

// quiet stops what else works on the node, so that the proxy is alone: its
// kubelet, which follows all Services too, and containerd.
func quiet() error {
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	stopped := 0
	for _, file := range comms {
		name, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		if !slices.Contains([]string{"kubelet", "containerd"}, strings.TrimSpace(string(name))) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
		stopped++
	}
	if stopped < 2 {
		return errors.New("kubelet and containerd were not found on the node")
	}
	return nil
}
