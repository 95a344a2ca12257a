package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/inet"
)

const (
	asn = 64512
	// within is how long anything may take.
	within = 3 * time.Minute
	// restTime is how long the agent is at rest before its memory is read.
	restTime = 5 * time.Second
	changes  = 50
	flapping = 100
	flaps    = 30
)

var (
	nodeAddr  = netip.MustParseAddr("10.9.0.2")
	otherAddr = netip.MustParseAddr("10.9.0.1")
)

// measureNode has an agent, the real program with the routes controller alone,
// or BIRD, learn n prefixes from another speaker: the routes of nodes 10.9.1.0
// to 10.9.15.255, which are on the link.
func measureNode(ctx context.Context, by, program string, n int) ([]Row, error) {
	if err := addLink(); err != nil {
		return nil, err
	}
	protocol := netlink.RouteProtocol(ourProtocol)
	if by == bird {
		protocol = birdProtocol
	}
	k, err := followKernel(ctx, protocol)
	if err != nil {
		return nil, err
	}
	m := &node{kernel: k, n: n, up: make(chan time.Time, 1)}
	if err := m.startSpeaker(); err != nil {
		return nil, err
	}
	defer m.speaker.Stop()
	start := m.startAgent
	if by == bird {
		start = m.startBIRD
	}
	if err := start(ctx, program); err != nil {
		return nil, err
	}
	defer m.stopAgent()
	rows, err := m.learn(ctx)
	if err != nil || n != 1000 {
		return rows, err
	}
	for _, measure := range []func(context.Context) (Row, error){m.rest, m.change, m.flap} {
		row, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// node is an agent and the speaker that it learns from.
type node struct {
	kernel  *kernel
	n       int
	speaker *bgp.Speaker
	up      chan time.Time
	agent   *exec.Cmd
	dir     string
}

func addLink() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("making a link: %w", err)
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, a := range []netip.Addr{nodeAddr, otherAddr} {
		addr, err := netlink.ParseAddr(a.String() + "/16")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func prefixOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + i/256), byte(i), 0}), 24)
}

func hopOf(i, version int) netip.Addr {
	i = i%3000 + version*256
	return netip.AddrFrom4([4]byte{10, 9, byte(1 + i/256), byte(i)})
}

func (m *node) startSpeaker() error {
	config := bgp.Config{
		ASN: asn, RouterID: otherAddr, Listen: []netip.Addr{otherAddr}, Port: 179, Families: []inet.Family{inet.IPv4},
	}
	config.OnPeer = func(netip.Addr) {
		if m.speaker == nil || len(m.speaker.Peers()) == 0 || !m.speaker.Peers()[0].Established() {
			return
		}
		select {
		case m.up <- m.speaker.Peers()[0].Since:
		default:
		}
	}
	speaker, err := bgp.Start(config, quiet())
	if err != nil {
		return err
	}
	m.speaker = speaker
	if err := speaker.Advertise(m.routes(0)); err != nil {
		return err
	}
	// Of the two the one with the higher address dials.
	return speaker.SetPeers([]bgp.Peer{{Addr: nodeAddr, ASN: asn, Local: otherAddr, Passive: true}})
}

// routes are all, of which the first many have changed.
func (m *node) routes(changed int) []bgp.Route {
	var routes []bgp.Route
	for i := range m.n {
		version := 0
		if i < changed {
			version = 1
		}
		routes = append(routes, bgp.Route{Prefix: prefixOf(i), NextHop: hopOf(i, version), To: bgp.ToNodes})
	}
	return routes
}

func quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// learn measures from the session's start to the last route.
func (m *node) learn(ctx context.Context) ([]Row, error) {
	var since time.Time
	select {
	case since = <-m.up:
	case <-time.After(within):
		return nil, fmt.Errorf("the session with the agent: %w", errLate)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := m.kernel.await(ctx, within, func(hops map[netip.Prefix]netip.Addr) bool { return len(hops) == m.n }); err != nil {
		return nil, err
	}
	took := time.Since(since)
	if err := pause(ctx, 2*time.Second); err != nil { // would anything come twice?
		return nil, err
	}
	ops, excess := m.kernel.counted(func(netip.Prefix) int { return 1 })
	return []Row{{What: learnName(m.n), Time: spreadOf(took), Operations: figure(ops), Repeated: figure(excess), Sessions: figure(1)}}, nil
}

func (m *node) rest(ctx context.Context) (Row, error) {
	if err := pause(ctx, restTime); err != nil {
		return Row{}, err
	}
	memory, err := residentOf(strconv.Itoa(m.agent.Process.Pid))
	return Row{What: memoryName, Memory: &memory}, err
}

// change changes one next hop after the other.
func (m *node) change(ctx context.Context) (Row, error) {
	m.kernel.reset()
	var samples []time.Duration
	for i := range changes {
		began := time.Now()
		if err := m.speaker.Advertise(m.routes(i + 1)); err != nil {
			return Row{}, err
		}
		if err := m.kernel.await(ctx, within, func(hops map[netip.Prefix]netip.Addr) bool { return hops[prefixOf(i)] == hopOf(i, 1) }); err != nil {
			return Row{}, err
		}
		samples = append(samples, time.Since(began))
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return Row{}, err
		}
	}
	ops, excess := m.kernel.counted(func(p netip.Prefix) int { return 1 })
	return Row{What: changeName, Time: spreadOf(samples...), Operations: figure(ops), Repeated: figure(excess)}, nil
}

// flap withdraws the last prefixes and tells them again, each once a second.
func (m *node) flap(ctx context.Context) (Row, error) {
	if err := m.speaker.Advertise(m.routes(0)); err != nil {
		return Row{}, err
	}
	back := func(hops map[netip.Prefix]netip.Addr) bool {
		return len(hops) == m.n && hops[prefixOf(0)] == hopOf(0, 0)
	}
	if err := m.kernel.await(ctx, within, back); err != nil {
		return Row{}, err
	}
	if err := pause(ctx, time.Second); err != nil {
		return Row{}, err
	}
	m.kernel.reset()
	for i := range 2 * flaps {
		routes := m.routes(0)
		if i%2 == 0 {
			routes = routes[:m.n-flapping]
		}
		if err := m.speaker.Advertise(routes); err != nil {
			return Row{}, err
		}
		if err := pause(ctx, time.Second/2); err != nil {
			return Row{}, err
		}
	}
	if err := m.kernel.await(ctx, within, back); err != nil {
		return Row{}, err
	}
	flapped := map[netip.Prefix]bool{}
	for i := m.n - flapping; i < m.n; i++ {
		flapped[prefixOf(i)] = true
	}
	ops, excess := m.kernel.counted(func(p netip.Prefix) int {
		if flapped[p] {
			return 2 * flaps
		}
		return 0
	})
	return Row{What: flapName, Operations: figure(ops), Repeated: figure(excess)}, nil
}

func (m *node) startAgent(ctx context.Context, program string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	api, err := newAPI()
	if err != nil {
		return err
	}
	go http.Serve(listener, api) // until the process ends
	if m.dir, err = os.MkdirTemp("", "bench-routes-"); err != nil {
		return err
	}
	kubeconfig := filepath.Join(m.dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, kubeconfigText, "http://"+listener.Addr().String()), 0o600); err != nil {
		return err
	}
	m.agent = exec.CommandContext(ctx, program, "--run-router=true", "--run-service-proxy=false", "--run-firewall=false",
		"--enable-cni=false", "--gobgp-admin-port=0", "--kubeconfig="+kubeconfig, "--hostname-override="+nodeName)
	m.agent.Stderr = &warnings{}
	m.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.agent.Start(); err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	return nil
}

func (m *node) stopAgent() {
	_ = m.agent.Process.Signal(syscall.SIGTERM)
	_ = m.agent.Wait()
	os.RemoveAll(m.dir)
}

// warnings passes on what the agent warns of.
type warnings struct{}

func (warnings) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if strings.Contains(line, "WARN") || strings.Contains(line, "ERROR") {
			fmt.Fprint(os.Stderr, line)
		}
	}
	return len(p), nil
}

const kubeconfigText = `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: %q}}]
users: [{name: bench, user: {}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
current-context: bench
`

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// residentOf is the resident memory of a process, in units of 1,000,000 bytes.
func residentOf(pid string) (float64, error) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %s has no resident memory", pid)
}
