package bgp

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests of restarts run each speaker in a process of its own, as nodes do,
// so that one can be killed. (They could not share one anyway: GoBGP keeps
// options in package variables, and marks paths stale while its own event
// stream reads them, which the race detector reports.)
func TestMain(m *testing.M) {
	if spec := os.Getenv("BGP_TEST_NODE"); spec != "" {
		if err := runNode(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// nodeSpec is how a node's process is started.
type nodeSpec struct {
	net, n               byte
	graceful, restarting bool
	restartSeconds       int
	// Peers are nodes 1 to nodes of the net.
	nodes byte
}

// runNode speaks BGP, prints what changes and obeys what it reads: "stop".
func runNode(text string) error {
	var spec nodeSpec
	if _, err := fmt.Sscan(text, &spec.net, &spec.n, &spec.graceful, &spec.restarting, &spec.restartSeconds, &spec.nodes); err != nil {
		return err
	}
	c := testConfig(spec.net, spec.n)
	c.GracefulRestart, c.Restarting = spec.graceful, spec.restarting
	c.RestartTime = time.Duration(spec.restartSeconds) * time.Second
	var s *Speaker
	ready := make(chan struct{})
	c.OnRoute = func(p netip.Prefix) {
		<-ready
		fmt.Printf("route %s via %v\n", p, s.NextHops(p))
	}
	c.OnPeer = func(netip.Addr) {
		<-ready
		fmt.Printf("unsettled %v\n", s.Unsettled())
	}
	s, err := Start(c, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	close(ready)
	var nodes []byte
	for n := byte(1); n <= spec.nodes; n++ {
		nodes = append(nodes, n)
	}
	if err := s.SetPeers(mesh(spec.net, spec.n, nodes...)); err != nil {
		return err
	}
	if err := s.Advertise(own(spec.net, spec.n)); err != nil {
		return err
	}
	_, _ = io.ReadAll(os.Stdin)
	s.Stop()
	return nil
}

// node is a speaker's process, and what it has printed.
type node struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	mu    sync.Mutex
	lines []string
	read  chan struct{} // closed at the end of its output
}

func startNode(t *testing.T, spec nodeSpec) *node {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, cmd: exec.Command(self), read: make(chan struct{})}
	n.cmd.Env = append(os.Environ(),
		fmt.Sprintf("BGP_TEST_NODE=%d %d %t %t %d %d", spec.net, spec.n, spec.graceful, spec.restarting, spec.restartSeconds, spec.nodes),
		"GORACE=exitcode=0 atexit_sleep_ms=0 log_path="+filepath.Join(t.TempDir(), "race"))
	n.cmd.Stderr = t.Output()
	stdin, err1 := n.cmd.StdinPipe()
	stdout, err2 := n.cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	n.stdin = stdin
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go n.collect(stdout)
	t.Cleanup(n.stop)
	return n
}

func (n *node) collect(r io.Reader) {
	defer close(n.read)
	for s := bufio.NewScanner(r); s.Scan(); {
		n.mu.Lock()
		n.lines = append(n.lines, s.Text())
		n.mu.Unlock()
	}
}

// stop ends the process in the regular way, kill as a crash does.
func (n *node) stop() {
	n.stdin.Close()
	<-n.read
	_ = n.cmd.Wait()
}

func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	n.stop()
}

// printed returns what the node printed since line number from.
func (n *node) printed(from int) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.lines[from:])
}

// waits until the node has printed a line, and returns how many it had then.
func (n *node) waits(from int, within time.Duration, line string) int {
	n.t.Helper()
	at := 0
	eventually(n.t, within, "printed "+line, func() (bool, string) {
		lines := n.printed(from)
		at = from + slices.Index(lines, line) + 1
		return slices.Contains(lines, line), strings.Join(lines, "\n")
	})
	return at
}

func TestGracefulRestartKeepsRoutes(t *testing.T) {
	t.Parallel()
	for i, end := range []func(*node){(*node).stop, (*node).kill} {
		t.Run([]string{"stop", "kill"}[i], func(t *testing.T) {
			t.Parallel()
			net := byte(20 + i)
			// Node 3 is away: nobody may wait for it.
			spec := nodeSpec{net: net, graceful: true, restartSeconds: 60, nodes: 3}
			other := startNode(t, spec.is(2))
			first := startNode(t, spec.is(1))
			route := fmt.Sprintf("route 10.244.1.0/24 via [127.0.%d.1]", net)
			settled := fmt.Sprintf("unsettled [127.0.%d.3]", net)
			other.waits(0, 10*time.Second, route)
			seen := other.waits(0, 10*time.Second, settled)
			end(first)
			spec.restarting = true
			again := startNode(t, spec.is(1))
			other.waits(seen, 15*time.Second, settled)
			again.waits(0, time.Second, fmt.Sprintf("route 10.244.2.0/24 via [127.0.%d.2]", net))
			for _, line := range other.printed(seen) {
				if strings.HasPrefix(line, "route") {
					t.Errorf("the restart was seen: %s", line)
				}
			}
		})
	}
}

func TestFreshStartAdvertisesAtOnce(t *testing.T) {
	t.Parallel()
	spec := nodeSpec{net: 40, graceful: true, restartSeconds: 60, nodes: 3}
	other, first := startNode(t, spec.is(2)), startNode(t, spec.is(1))
	other.waits(0, 5*time.Second, "route 10.244.1.0/24 via [127.0.40.1]")
	first.waits(0, 5*time.Second, "route 10.244.2.0/24 via [127.0.40.2]")
}

func TestStopWithoutGracefulRestartWithdrawsAtOnce(t *testing.T) {
	t.Parallel()
	spec := nodeSpec{net: 41, nodes: 2}
	other, first := startNode(t, spec.is(2)), startNode(t, spec.is(1))
	seen := other.waits(0, 10*time.Second, "route 10.244.1.0/24 via [127.0.41.1]")
	first.stop()
	other.waits(seen, time.Second, "route 10.244.1.0/24 via []")
}

func TestANodeThatStaysAwayLosesItsRoutes(t *testing.T) {
	t.Parallel()
	spec := nodeSpec{net: 42, graceful: true, restartSeconds: 2, nodes: 2}
	other, first := startNode(t, spec.is(2)), startNode(t, spec.is(1))
	seen := other.waits(0, 10*time.Second, "route 10.244.1.0/24 via [127.0.42.1]")
	stopped := time.Now()
	first.stop()
	other.waits(seen, 10*time.Second, "route 10.244.1.0/24 via []")
	if kept := time.Since(stopped); kept < time.Second {
		t.Errorf("routes were kept for %v only", kept)
	}
}

func (s nodeSpec) is(n byte) nodeSpec {
	s.n = n
	return s
}
