//go:build kernel || guest

package cleanup

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

// testNode is a network namespace with a life of its own before the agent
// comes: other programs' links, routes, rules, sets, virtual servers, sysctls.
type testNode struct {
	*nstest.Namespace
	t       *testing.T
	variant iptables.Variant // that the agent uses
	kernel  testKernel
	dir     string
	before  string
}

// testKernel is what the kernel under test has.
type testKernel struct {
	variants []iptables.Variant
	ipvs     bool
}

func newNode(t *testing.T, kernel testKernel, variant iptables.Variant) *testNode {
	t.Helper()
	n := &testNode{Namespace: nstest.New(t), t: t, variant: variant, kernel: kernel, dir: t.TempDir()}
	// Not the lock of the host.
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(n.dir, "xtables.lock"))
	n.sh(othersState)
	for _, command := range n.iptables() {
		n.restore(command+"-restore", othersRules)
	}
	if kernel.ipvs {
		n.sh(othersServers)
	}
	n.before = n.settledState()
	return n
}

func (n *testNode) sh(script string) string {
	n.t.Helper()
	return nstest.Run(n.t, "sh", "-euc", script)
}

// iptables are the commands of all variants and families, less "-save".
func (n *testNode) iptables() []string {
	var commands []string
	for _, v := range n.kernel.variants {
		variant := map[iptables.Variant]string{iptables.Legacy: "-legacy", iptables.NFT: "-nft"}[v]
		commands = append(commands, "iptables"+variant, "ip6tables"+variant)
	}
	return commands
}

func (n *testNode) restore(program, rules string) {
	n.t.Helper()
	command := exec.Command(program, "--noflush")
	command.Stdin = strings.NewReader(rules)
	if out, err := command.CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
}

// othersLink is one of the othersLinks links of othersState when it is in
// operation.
var othersLink = regexp.MustCompile(`(?m)^\d+: (eth0|switch0|docker0|v0|v0p)[@:].* state UP `)

const othersLinks = 5

// othersState has names that are nearly ours, and settings that the agent
// changes.
const othersState = `
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 net.ipv4.conf.all.accept_redirects=0
sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=1 net.ipv4.conf.all.rp_filter=1
ip link add eth0 type veth peer name switch0
ip link set switch0 up
ip link set eth0 up
ip address add 192.168.66.11/24 dev eth0
ip address add fd00:66::11/64 dev eth0 nodad
ip link add docker0 type bridge
ip link set docker0 up
ip address add 172.17.0.1/16 dev docker0
ip link add v0 type veth peer name v0p
ip link set v0 master docker0 up
ip link set v0p up
sysctl -qw net.ipv4.conf.v0.forwarding=1 net.ipv6.conf.v0.forwarding=1 net.ipv4.conf.eth0.rp_filter=1
ip route add 10.9.0.0/16 via 192.168.66.1
ip route add 10.244.9.0/24 via 192.168.66.9 proto bird
ip route add 10.8.0.0/16 via 192.168.66.1 table 100
ip route add local 203.0.113.7 dev lo table local
ip -6 route add fd00:9::/48 via fd00:66::1
ip rule add from 10.9.0.0/16 table 100 pref 1000
ip -6 rule add from fd00:9::/48 table 100 pref 1000
ipset create foreign hash:ip
ipset add foreign 10.1.1.1
ipset create kube-router-foreign hash:net family inet6
ipset add kube-router-foreign fd00:9::/48
ipset create KUBE-CLUSTER-IP-MINE hash:ip,port
ipset add KUBE-CLUSTER-IP-MINE 10.96.0.1,tcp:443
`

const othersRules = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-ROUTER-MINE - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -j KUBE-ROUTER-MINE
-A DOCKER-USER -j RETURN
-A KUBE-FIREWALL -m comment --comment "not -j KUBE-ROUTER-INPUT" -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-SERVICES-MINE - [0:0]
-A PREROUTING -j KUBE-SERVICES-MINE
-A POSTROUTING -o docker0 -j MASQUERADE
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-IPTABLES-HINT - [0:0]
-A PREROUTING -i docker0 -j MARK --set-xmark 0x11/0xffffffff
COMMIT
`

// othersServers has the modules with whose links the kernel comes, and the
// tunnel up once: it keeps a queue and IPv6's sysctls of a link that ever was up.
const othersServers = `
modprobe -a ipip sit ip6_tunnel
ip link set tunl0 up
ip link set tunl0 down
sysctl -qw net.ipv4.vs.conntrack=0 net.ipv4.vs.expire_nodest_conn=0 net.ipv4.vs.conn_reuse_mode=0
ipvsadm --set 800 100 200
ipvsadm -A -t 192.0.2.1:80 -s wlc
ipvsadm -a -t 192.0.2.1:80 -r 192.168.66.50:80 -g -w 3
ipvsadm -A -f 17 -s rr
ipvsadm -A -t 10.96.9.9:53 -s rr
ipvsadm -A -u 192.168.66.11:5353 -s rr
ipvsadm -A -t [fd00:66::11]:8443 -s sh -p 60
`

// state is all that the agent may touch, as the tools print it.
func (n *testNode) state() string {
	n.t.Helper()
	var b strings.Builder
	section := func(title, text string) { b.WriteString("== " + title + "\n" + text) }
	for _, command := range n.iptables() {
		for _, table := range []string{"filter", "nat", "mangle"} {
			section(command+" "+table, n.sh(command+"-save -t "+table+` | sed -e '/^#/d' -e 's/ \[[0-9]*:[0-9]*\]$//'`))
		}
	}
	section("ipset", n.sh("ipset save | sort"))
	if n.kernel.ipvs {
		section("ipvs", n.sh("ipvsadm -Sn; ipvsadm -L --timeout"))
	}
	section("links", n.sh(`ip link; bridge -details link | sed 's/ state [a-z]* / /'; ip address`))
	section("routes", n.sh("ip -4 route show table all; ip -6 route show table all; ip -4 rule; ip -6 rule"))
	section("sysctls", n.sh(`cd /proc/sys && grep -r . net 2>/dev/null | grep -v -e nf_conntrack_count -e stable_secret | sort || true`))
	section("cni", n.sh("cat "+n.cniFile()+" 2>/dev/null || true"))
	return b.String()
}

func (n *testNode) cniFile() string { return filepath.Join(n.dir, "10-kuberouter.conflist") }

// settledState is the state when the kernel has done what it does by itself: a
// new link's carrier and its IPv6 address take a moment, and the operational
// state of one whose carrier is there follows up to a second later (the
// kernel's linkwatch does the less urgent ones once a second).
func (n *testNode) settledState() string {
	n.t.Helper()
	last := ""
	n.await("the links come to rest", func() (bool, any) {
		links := n.sh("ip address; ip -6 route show table all")
		up := othersLink.FindAllString(n.sh("ip -oneline link"), -1)
		done := links == last && len(up) == othersLinks && !strings.Contains(links, "tentative")
		last = links
		return done, links
	})
	return n.state()
}

// isAsBefore compares the node with how it was, byte for byte.
func (n *testNode) isAsBefore() {
	n.t.Helper()
	if diff := cmp.Diff(strings.Split(n.before, "\n"), strings.Split(n.settledState(), "\n")); diff != "" {
		n.t.Errorf("the node is another one (-before +after):\n%s", diff)
	}
}

func (n *testNode) record() *record.File {
	return record.Open(filepath.Join(n.dir, "run", "before.json"), slog.New(slog.DiscardHandler))
}

func (n *testNode) options() Options {
	return Options{CNIFile: n.cniFile(), Record: n.record(), Excluded: []netip.Prefix{netip.MustParsePrefix("10.96.9.0/24")},
		NodePorts: PortRange{30000, 32767}, KubeProxy: kubeProxy{}}
}

// clean runs a clean-up and returns what it says.
func (n *testNode) clean() string {
	n.t.Helper()
	var out strings.Builder
	if err := Run(n.t.Context(), n.options(), &out); err != nil {
		n.t.Errorf("clean-up: %v\n%s", err, out.String())
	}
	return out.String()
}

// errKilled is what a killer panics with.
var errKilled = errors.New("killed")

// killer ends a clean-up at a line, as SIGKILL would.
type killer struct{ lines int }

func (k *killer) Write(text []byte) (int, error) {
	if k.lines--; k.lines < 0 {
		panic(errKilled)
	}
	return len(text), nil
}

// cleanUntil runs a clean-up that is killed after some lines.
func (n *testNode) cleanUntil(lines int) {
	n.t.Helper()
	defer func() {
		if reason := recover(); reason != errKilled {
			n.t.Errorf("the clean-up was not killed after %d lines: %v", lines, reason)
		}
	}()
	_ = Run(n.t.Context(), n.options(), &killer{lines: lines})
}

// testFeatures runs the agent with each set of features and cleans up after it.
func testFeatures(t *testing.T, kernel testKernel, variant iptables.Variant, all []features) {
	for _, f := range all {
		t.Run(f.name(), func(t *testing.T) {
			n := newNode(t, kernel, variant)
			n.run(f)
			if n.settledState() == n.before {
				t.Fatal("the agent has done nothing")
			}
			n.run(f) // a restart, which finds what the first run set
			said := n.clean()
			n.isAsBefore()
			if again := n.clean(); again != "nothing to remove\n" {
				t.Errorf("the second clean-up:\n%s", again)
			}
			if _, err := os.Stat(filepath.Join(n.dir, "run", "before.json")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the record is left: %v", err)
			}
			if f.wants != "" {
				for want := range strings.Lines(f.wants) {
					if !strings.Contains(said, want) {
						t.Errorf("clean-up does not say %q but\n%s", want, said)
					}
				}
			}
		})
	}
}

// testInterrupted kills clean-ups after more and more lines; another one each
// time ends the work.
func testInterrupted(t *testing.T, kernel testKernel, variant iptables.Variant, f features) {
	n := newNode(t, kernel, variant)
	n.run(f)
	lines := strings.Count(n.clean(), "\n")
	const kills = 4
	for i := range kills {
		n.run(f)
		n.cleanUntil(lines * i / kills)
		n.clean()
		n.isAsBefore()
	}
}

// background is what a run of the agent has going.
type background struct {
	cancel context.CancelFunc
	work   sync.WaitGroup
}

type controller interface {
	Run(context.Context) error
	Ready() <-chan struct{}
}

// start runs a controller in the node's namespace.
func (b *background) start(n *testNode, ctx context.Context, c controller) {
	b.work.Add(1)
	n.Go(n.t, func() {
		defer b.work.Done()
		if err := c.Run(ctx); err != nil {
			n.t.Error(err)
		}
	})
}

func (b *background) stop() {
	b.cancel()
	b.work.Wait()
}

// await waits for a condition.
func (n *testNode) await(what string, ok func() (bool, any)) {
	n.t.Helper()
	var state any
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var done bool
		if done, state = ok(); done {
			return
		}
	}
	n.t.Fatalf("not in time: %s: %v", what, state)
}

// families are those that the agent serves in these tests.
var families = []inet.Family{inet.IPv4, inet.IPv6}

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}
