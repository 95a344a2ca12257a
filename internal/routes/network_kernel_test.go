//go:build kernel || guest

package routes

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// network is a switch with three nodes at it, 192.168.66.11 to .13, each with
// a Pod. The switch is 192.168.66.1 and knows no route to the Pods.
type network struct {
	t      *testing.T
	prefix string
}

func newNetwork(t *testing.T) *network {
	lan := &network{t: t, prefix: fmt.Sprintf("kr%d-", os.Getpid()%100000)}
	lan.namespace("sw")
	lan.in("sw", "ip", "link", "add", "br0", "type", "bridge")
	lan.in("sw", "ip", "address", "add", "192.168.66.1/24", "dev", "br0")
	lan.in("sw", "ip", "link", "set", "br0", "up")
	for n := 1; n <= 3; n++ {
		name, port := fmt.Sprintf("n%d", n), fmt.Sprintf("p%d", n)
		lan.namespace(name)
		lan.in("sw", "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", lan.prefix+name)
		lan.in("sw", "ip", "link", "set", port, "master", "br0", "up")
		lan.in(name, "ip", "address", "add", fmt.Sprintf("192.168.66.%d/24", 10+n), "dev", "eth0")
		lan.in(name, "ip", "link", "set", "eth0", "up")
	}
	return lan
}

func (lan *network) namespace(name string) {
	lan.run("ip", "netns", "add", lan.prefix+name)
	lan.t.Cleanup(func() { lan.run("ip", "netns", "delete", lan.prefix+name) })
	lan.in(name, "ip", "link", "set", "lo", "up")
}

func (lan *network) run(args ...string) string {
	lan.t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		lan.t.Fatalf("%q (kernel tests need root, iproute2, iptables and ipset): %v\n%s", args, err, out)
	}
	return string(out)
}

func (lan *network) in(name string, args ...string) string {
	lan.t.Helper()
	return lan.run(append([]string{"ip", "netns", "exec", lan.prefix + name}, args...)...)
}

// pod adds a Pod to a node, as the CNI plugin does, and returns its address.
func (lan *network) pod(n int) string {
	node, pod, ip := fmt.Sprintf("n%d", n), fmt.Sprintf("pod%d", n), fmt.Sprintf("10.244.%d.2", n)
	lan.namespace(pod)
	lan.in(node, "ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", lan.prefix+pod)
	lan.in(node, "ip", "link", "set", "veth0", "master", Bridge, "up")
	lan.in(node, "ip", "address", "add", fmt.Sprintf("10.244.%d.1/24", n), "dev", Bridge)
	lan.in(pod, "ip", "address", "add", ip+"/24", "dev", "eth0")
	lan.in(pod, "ip", "link", "set", "eth0", "up")
	lan.in(pod, "ip", "route", "add", "default", "via", fmt.Sprintf("10.244.%d.1", n))
	return ip
}

func (lan *network) routes(n int) string {
	out := lan.in(fmt.Sprintf("n%d", n), "ip", "route", "show", "proto", "17")
	var lines []string
	for line := range strings.Lines(out) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, "\n")
}

func (lan *network) eventually(within time.Duration, what string, ok func() (bool, string)) {
	lan.t.Helper()
	deadline := time.Now().Add(within)
	for {
		done, got := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			lan.t.Fatalf("not within %v: %s\nthere is:\n%s", within, what, got)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (lan *network) routesAre(n int, within time.Duration, want ...string) {
	lan.t.Helper()
	text := strings.Join(want, "\n")
	lan.eventually(within, fmt.Sprintf("routes of n%d:\n%s", n, text), func() (bool, string) {
		got := lan.routes(n)
		return got == text, got
	})
}

// serve starts a server in a namespace.
func (lan *network) serve(name, addr string) {
	lan.t.Helper()
	self, err := os.Executable()
	if err != nil {
		lan.t.Fatal(err)
	}
	lan.printed(lan.spawn(name, []string{"ROUTES_TEST_SERVE=" + addr + ":8080"}, self), "serving")
}

// sees checks which client a server sees behind the one in a namespace.
func (lan *network) sees(name, server, client string) {
	lan.t.Helper()
	self, err := os.Executable()
	if err != nil {
		lan.t.Fatal(err)
	}
	if got := lan.in(name, "env", "ROUTES_TEST_ASK="+server+":8080", self); got != client {
		lan.t.Errorf("%s sees %s as %q, want %s", server, name, got, client)
	}
}

// process is a command that runs in a node, and what it printed.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}
	mu    sync.Mutex
	lines []string
}

func (lan *network) spawn(name string, env []string, args ...string) *process {
	lan.t.Helper()
	p := &process{t: lan.t, ended: make(chan struct{})}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", lan.prefix + name}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = lan.t.Output()
	stdin, err1 := p.cmd.StdinPipe()
	stdout, err2 := p.cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		lan.t.Fatal(err1, err2)
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		lan.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.mu.Unlock()
		}
	}()
	lan.t.Cleanup(p.kill)
	return p
}

func (p *process) printed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// monitor prints what happens to the routes and addresses of a node from now
// on. It is known to watch once it has printed a route of the test's own.
func (lan *network) monitor(name string) *process {
	m := lan.spawn(name, nil, "ip", "-4", "monitor", "route", "address")
	marks := 0
	mark := func() string { // another one each time: what is there already is no news
		marks++
		dst := fmt.Sprintf("198.18.%d.%d", marks/250, marks%250+1)
		lan.in(name, "ip", "route", "add", dst, "dev", "lo")
		return dst
	}
	lan.eventually(5*time.Second, "a monitor that watches", func() (bool, string) {
		mark()
		return len(m.printed()) > 0, ""
	})
	last := mark()
	lan.eventually(5*time.Second, "the last mark", func() (bool, string) {
		lines := m.printed()
		return strings.HasPrefix(lines[len(lines)-1], last+" "), strings.Join(lines, "\n")
	})
	m.mu.Lock()
	m.lines = nil
	m.mu.Unlock()
	return m
}

// stop closes the input, which ends an agent, and says how long that took.
func (p *process) stop() time.Duration {
	began := time.Now()
	p.stdin.Close()
	<-p.ended
	_ = p.cmd.Wait()
	return time.Since(began)
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.stop()
}

// agent starts the agent of node n, which knows all three Nodes.
func (lan *network) agent(n int, graceful bool, cniFile string, env ...string) *process {
	self, err := os.Executable()
	if err != nil {
		lan.t.Fatal(err)
	}
	env = append(env, fmt.Sprintf("ROUTES_TEST_NODE=n%d", n), "CNI_FILE="+cniFile, "GORACE=exitcode=0 atexit_sleep_ms=0 log_path="+filepath.Join(lan.t.TempDir(), "race"))
	if graceful {
		env = append(env, "GRACEFUL=1")
	}
	p := lan.spawn(fmt.Sprintf("n%d", n), env, self)
	for i := 1; i <= 3; i++ {
		fmt.Fprintf(p.stdin, "set n%d 192.168.66.%d 10.244.%d.0/24\n", i, 10+i, i)
	}
	fmt.Fprintln(p.stdin, "synced")
	return p
}

func (lan *network) printed(p *process, line string) {
	lan.t.Helper()
	lan.eventually(20*time.Second, "printed "+line, func() (bool, string) {
		lines := p.printed()
		return slices.Contains(lines, line), strings.Join(lines, "\n")
	})
}

func via(n int) string {
	return fmt.Sprintf("10.244.%d.0/24 via 192.168.66.%d dev eth0", n, 10+n)
}

// cniFile is the CNI configuration of a node, in a directory of its own.
func cniFile(t *testing.T, dir string, n int) string {
	dir = filepath.Join(dir, fmt.Sprintf("n%d", n))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "10-kuberouter.conflist")
}
