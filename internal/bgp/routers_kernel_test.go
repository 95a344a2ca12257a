//go:build kernel

package bgp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// The tests against other routers have a link (a bridge) with the nodes, the
// first of them 10.9.0.1 and fd09::1, on the test's side, and every router in
// a network namespace of its own at the other end of a pair of interfaces.
// Nodes run in processes of their own, which have the test's namespace on all
// of their threads.

type network struct {
	t *testing.T
	// dir holds sockets, whose paths may not be long.
	dir string
}

func newNetwork(t *testing.T, nodes int) *network {
	t.Helper()
	nstest.New(t)
	dir, err := os.MkdirTemp("", "bgp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	nstest.Run(t, "ip", "link", "add", "br0", "type", "bridge")
	nstest.Run(t, "ip", "link", "set", "br0", "up")
	for n := 1; n <= nodes; n++ {
		nstest.Run(t, "ip", "addr", "add", fmt.Sprintf("10.9.0.%d/24", n), "dev", "br0")
		nstest.Run(t, "ip", "addr", "add", fmt.Sprintf("fd09::%d/64", n), "dev", "br0", "nodad")
	}
	return &network{t: t, dir: dir}
}

// attach makes a namespace with the addresses 10.9.0.<n> and fd09::<n>, and
// returns its name.
func (l *network) attach(n int) string {
	l.t.Helper()
	name := fmt.Sprintf("%s-%d", filepath.Base(l.dir), n)
	nstest.Run(l.t, "ip", "netns", "add", name)
	l.t.Cleanup(func() { nstest.Run(l.t, "ip", "netns", "del", name) })
	nstest.Run(l.t, "ip", "link", "add", l.port(n), "type", "veth", "peer", "name", "eth0", "netns", name)
	nstest.Run(l.t, "ip", "link", "set", l.port(n), "master", "br0", "up")
	for _, command := range []string{
		"link set lo up", "link set eth0 up", fmt.Sprintf("addr add 10.9.0.%d/24 dev eth0", n), fmt.Sprintf("addr add fd09::%d/64 dev eth0 nodad", n),
	} {
		nstest.Run(l.t, "ip", append([]string{"-n", name}, strings.Fields(command)...)...)
	}
	return name
}

func (l *network) port(n int) string { return fmt.Sprintf("port%d", n) }

// daemon runs a command in a namespace until the test ends.
func (l *network) daemon(ns string, command ...string) {
	l.t.Helper()
	log, err := os.Create(filepath.Join(l.dir, ns+"-"+filepath.Base(command[0])+".log"))
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", ns}, command...)...) // which becomes the command
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if text, _ := os.ReadFile(log.Name()); l.t.Failed() && len(text) > 0 {
			l.t.Logf("%s:\n%s", filepath.Base(log.Name()), text)
		}
	})
}

func (l *network) write(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// router is FRR or BIRD in its namespace.
type router struct {
	t  *testing.T
	ns string
	// ask runs a command of the router's own shell.
	ask func(command string) string
}

const frrDir = "/usr/lib/frr/"

// frr starts FRR at 10.9.0.<n>, with the configuration of its BGP and, if it
// has one, of its BFD.
func (l *network) frr(n int, bgp string, bfd ...string) *router {
	l.t.Helper()
	ns := l.attach(n)
	dir := filepath.Join(l.dir, ns)
	if err := errors.Join(os.Chmod(l.dir, 0o755), os.Mkdir(dir, 0o755)); err != nil {
		l.t.Fatal(err)
	}
	nstest.Run(l.t, "chown", "frr:frrvty", dir)
	configs := map[string]string{"bgpd": bgp, "bfdd": strings.Join(bfd, "")}
	for _, program := range []string{"zebra", "bfdd", "bgpd"} {
		path := l.write(ns+"-"+program+".conf", "log stdout\n"+configs[program])
		l.daemon(ns, frrDir+program, "-f", path, "-z", dir+"/zserv", "--vty_socket", dir, "-i", dir+"/"+program+".pid", "-P", "0")
		eventually(l.t, waiting, program+" of FRR answers", func() (bool, string) {
			out, err := exec.Command("vtysh", "--vty_socket", dir, "-d", program, "-c", "show version").CombinedOutput()
			return err == nil, string(out)
		})
	}
	return &router{l.t, ns, func(command string) string {
		return nstest.Run(l.t, "vtysh", "--vty_socket", dir, "-c", command)
	}}
}

// bird starts BIRD at 10.9.0.<n>. Its configuration is completed by what every
// one has.
func (l *network) bird(n int, config string) *router {
	l.t.Helper()
	ns := l.attach(n)
	socket := filepath.Join(l.dir, ns+".ctl")
	path := l.write(ns+".conf", fmt.Sprintf(`log stderr all;
router id 10.9.0.%d;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol kernel { merge paths yes; ipv4 { export where source = RTS_BGP; }; }
protocol kernel { merge paths yes; ipv6 { export where source = RTS_BGP; }; }
%s`, n, config))
	l.daemon(ns, "/usr/sbin/bird", "-f", "-c", path, "-s", socket)
	r := &router{l.t, ns, func(command string) string {
		out, _ := exec.Command("birdc", append([]string{"-s", socket}, strings.Fields(command)...)...).CombinedOutput()
		return string(out)
	}}
	eventually(l.t, waiting, "BIRD answers", func() (bool, string) {
		out := r.ask("show status")
		return strings.Contains(out, "up and running"), out
	})
	return r
}

// kernel is the namespace's BGP routes, one a line, IPv4 before IPv6.
func (r *router) kernel() string {
	r.t.Helper()
	var lines []string
	for _, family := range []string{"-4", "-6"} {
		out := nstest.Run(r.t, "ip", "-n", r.ns, family, "-j", "route", "show")
		var routes []struct {
			Dst, Gateway, Protocol string
			Nexthops               []struct{ Gateway string }
		}
		if err := json.Unmarshal([]byte(out), &routes); err != nil {
			r.t.Fatal(err)
		}
		for _, route := range routes {
			if route.Protocol != "bgp" && route.Protocol != "bird" {
				continue
			}
			hops := []string{route.Gateway}
			if len(route.Nexthops) > 0 {
				hops = nil
			}
			for _, hop := range route.Nexthops {
				hops = append(hops, hop.Gateway)
			}
			slices.Sort(hops)
			lines = append(lines, route.Dst+" via "+strings.Join(hops, " "))
		}
	}
	return strings.Join(lines, "\n")
}

func (r *router) routes(lines ...string) {
	r.t.Helper()
	want := strings.Join(lines, "\n")
	eventually(r.t, waiting, "kernel routes\n"+want, func() (bool, string) {
		got := r.kernel()
		return sameLines(got, lines), got
	})
}

// shows waits until a command's answer has all of the texts in it.
func (r *router) shows(command string, texts ...string) {
	r.t.Helper()
	eventually(r.t, waiting, fmt.Sprintf("%s: %q", command, texts), func() (bool, string) {
		out := r.ask(command)
		for _, text := range texts {
			if !strings.Contains(out, text) {
				return false, out
			}
		}
		return true, out
	})
}

// A far speaker is one in another process.

type farConfig struct {
	N                    int // its addresses are 10.9.0.<N> and fd09::<N>
	Graceful, Restarting bool
	RestartTime          time.Duration
	ClusterID            netip.Addr
}

type farCommand struct {
	Peers     []farPeer
	Advertise []Route
	Policy    *Policy
	Stop      bool
}

// farPeer carries the password, which Peer's own encoding leaves out.
type farPeer struct {
	Peer     Peer
	Password string
}

type farAnswer struct {
	Error string
	Table string
	Peers []PeerState
}

type far struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      *json.Encoder
	out     *json.Decoder
	stdin   io.Closer
	stopped bool
}

// node starts a speaker in the test's namespace.
func (l *network) node(c farConfig) *far {
	l.t.Helper()
	text, err1 := json.Marshal(c)
	self, err2 := os.Executable()
	if err1 != nil || err2 != nil {
		l.t.Fatal(err1, err2)
	}
	f := &far{t: l.t, cmd: exec.Command(self)}
	f.cmd.Env = append(os.Environ(), "BGP_TEST_FAR="+string(text))
	f.cmd.Stderr = l.t.Output()
	stdin, err1 := f.cmd.StdinPipe()
	stdout, err2 := f.cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		l.t.Fatal(err1, err2)
	}
	f.stdin, f.in, f.out = stdin, json.NewEncoder(stdin), json.NewDecoder(stdout)
	if err := f.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(f.kill)
	return f
}

func (f *far) kill() {
	if !f.stopped {
		f.stopped = true
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
	}
}

// stop ends the speaker in the regular way.
func (f *far) stop() {
	f.do(farCommand{Stop: true})
	f.stopped = true
	_ = f.cmd.Wait()
}

func (f *far) do(c farCommand) farAnswer {
	f.t.Helper()
	var answer farAnswer
	if err := f.in.Encode(c); err != nil {
		f.t.Fatal(err)
	}
	if err := f.out.Decode(&answer); err != nil {
		f.t.Fatal(err)
	}
	if answer.Error != "" {
		f.t.Fatal(answer.Error)
	}
	return answer
}

func (f *far) peers(peers ...Peer) {
	f.t.Helper()
	c := farCommand{Peers: []farPeer{}}
	for _, p := range peers {
		c.Peers = append(c.Peers, farPeer{p, string(p.Password)})
	}
	f.do(c)
}

func (f *far) advertise(routes ...Route) {
	f.t.Helper()
	f.do(farCommand{Advertise: append([]Route{}, routes...)})
}

func (f *far) learns(lines ...string) {
	f.t.Helper()
	eventually(f.t, waiting, "learned\n"+strings.Join(lines, "\n"), func() (bool, string) {
		got := f.do(farCommand{}).Table
		return sameLines(got, lines), got
	})
}

func (f *far) knows(peer string, what string, ok func(PeerState) bool) {
	f.t.Helper()
	eventually(f.t, waiting, "peer "+peer+" "+what, func() (bool, string) {
		states := f.do(farCommand{}).Peers
		for _, state := range states {
			if state.Addr.String() == peer {
				return ok(state), fmt.Sprintf("%+v", state)
			}
		}
		return false, "not configured"
	})
}

// init makes this process a far speaker, if it was started as one.
func init() {
	spec := os.Getenv("BGP_TEST_FAR")
	if spec == "" {
		return
	}
	var c farConfig
	err := json.Unmarshal([]byte(spec), &c)
	if err == nil {
		err = serve(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(c farConfig) error {
	s, err := Start(Config{
		ASN: 64512, RouterID: netip.AddrFrom4([4]byte{10, 9, 0, byte(c.N)}), Port: 179,
		Listen:          []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, byte(c.N)}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 15: byte(c.N)})},
		Families:        []inet.Family{inet.IPv4, inet.IPv6},
		GracefulRestart: c.Graceful, Restarting: c.Restarting, RestartTime: c.RestartTime, ClusterID: c.ClusterID,
	}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var command farCommand
		if err := in.Decode(&command); err != nil {
			return err
		}
		if command.Stop {
			s.Stop()
			return out.Encode(farAnswer{})
		}
		answer := farAnswer{Table: table(s), Peers: s.Peers()}
		if err := obey(s, command); err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

func obey(s *Speaker, c farCommand) error {
	if c.Policy != nil {
		if err := s.SetPolicy(*c.Policy); err != nil {
			return err
		}
	}
	if c.Peers != nil {
		var peers []Peer
		for _, p := range c.Peers {
			p.Peer.Password = Secret(p.Password)
			peers = append(peers, p.Peer)
		}
		if err := s.SetPeers(peers); err != nil {
			return err
		}
	}
	if c.Advertise != nil {
		return s.Advertise(c.Advertise)
	}
	return nil
}
