package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

// system is an implementation under test, with ways to change and see it that
// do not go through it.
type system struct {
	Interface
	addLink  func(name string, mtu int, addrs ...string)
	setDown  func(name string)
	state    func(name string) string // "kube-bridge bridge mtu 1500 up"
	addVeth  func(name string)        // one end; the other is somewhere
	addOther func(name string)        // of a kind that Pods do not have
	addPort  func(bridge, name string)
	hairpin  func(name string) bool
	record   func(*record.File)
	tunnel   func(name string) string // as Tunnel.String says, and the entries of its nodes
	noGUE    func() bool              // the kernel cannot wrap tunnels in UDP
}

// suite holds fake and kernel to the same behaviour.
func suite(t *testing.T, fresh func(*testing.T) system) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, system)
	}{
		{"a bridge is made, and then left alone", testBridge},
		{"a bridge is repaired", testRepair},
		{"what is no bridge stays", testNoBridge},
		{"bad names and MTUs", testRefusals},
		{"a link is set up", testUp},
		{"a link is set down", testDown},
		{"ports of the pods' bridge reflect, others do not", testHairpin},
		{"bridges, their networks and ports", testBridges},
		{"what was changed is put back", testRestore},
		{"only a link of its kind without ports goes", testDelete},
		{"a VXLAN is made, changed, repaired, removed", testVXLAN},
		{"nodes that a VXLAN reaches", testVXLANNodes},
		{"what is no tunnel of ours stays", testNotOurTunnel},
		{"addresses of all links", testAddrs},
		{"the link that holds an address", testFind},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
}

const bridge = "kube-bridge"

func (s system) ensure(t *testing.T, mtu int, wantChanged bool, want string) {
	t.Helper()
	changed, err := s.EnsureBridge(t.Context(), bridge, mtu)
	if err != nil || changed != wantChanged {
		t.Errorf("EnsureBridge: changed %t, %v, want %t", changed, err, wantChanged)
	}
	if got := s.state(bridge); got != want {
		t.Errorf("state %q, want %q", got, want)
	}
}

func testBridge(t *testing.T, s system) {
	s.ensure(t, 1450, true, "kube-bridge bridge mtu 1450 up")
	s.ensure(t, 1450, false, "kube-bridge bridge mtu 1450 up")
	s.ensure(t, 0, false, "kube-bridge bridge mtu 1450 up")
	s.ensure(t, 9000, true, "kube-bridge bridge mtu 9000 up")
}

func testRepair(t *testing.T, s system) {
	s.ensure(t, 0, true, "kube-bridge bridge mtu 1500 up")
	s.setDown(bridge)
	s.ensure(t, 1500, true, "kube-bridge bridge mtu 1500 up")
	s.ensure(t, 1500, false, "kube-bridge bridge mtu 1500 up")
}

func testNoBridge(t *testing.T, s system) {
	s.addLink(bridge, 1500)
	changed, err := s.EnsureBridge(t.Context(), bridge, 1400)
	if changed || err == nil || !strings.Contains(err.Error(), "not a bridge") {
		t.Errorf("EnsureBridge over another link: %t, %v", changed, err)
	}
	if got := s.state(bridge); !strings.Contains(got, "mtu 1500") {
		t.Errorf("it was changed: %q", got)
	}
}

func testRefusals(t *testing.T, s system) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		ctx  context.Context
		name string
		mtu  int
	}{
		{t.Context(), "", 1500},
		{t.Context(), strings.Repeat("x", 16), 1500},
		{t.Context(), bridge, 67},
		{t.Context(), bridge, 65536},
		{t.Context(), bridge, -1},
		{ended, bridge, 1500},
	} {
		changed, err := s.EnsureBridge(test.ctx, test.name, test.mtu)
		if changed || err == nil {
			t.Errorf("EnsureBridge(%q, %d) = %t, %v, want an error", test.name, test.mtu, changed, err)
		}
	}
}

func testUp(t *testing.T, s system) {
	if err := s.EnsureLinkUp("v0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("EnsureLinkUp of what is not there: %v", err)
	}
	s.addLink("v0", 1500)
	s.setDown("v0")
	for range 2 {
		if err := s.EnsureLinkUp("v0"); err != nil {
			t.Error(err)
		}
	}
	if got := s.state("v0"); !strings.HasSuffix(got, " up") {
		t.Errorf("state %q", got)
	}
}

func testDown(t *testing.T, s system) {
	if err := s.EnsureLinkDown("v0"); err != nil {
		t.Errorf("EnsureLinkDown of what is not there: %v", err)
	}
	s.addLink("v0", 1500)
	for range 2 {
		if err := s.EnsureLinkDown("v0"); err != nil {
			t.Error(err)
		}
	}
	if got := s.state("v0"); !strings.HasSuffix(got, " down") {
		t.Errorf("state %q", got)
	}
}

// testTunnel needs the kernel's tunnel modules.
func testTunnel(t *testing.T, s system, family inet.Family, up string) {
	name := FallbackTunnel(family)
	for _, wantChanged := range []bool{true, false} {
		if changed, err := s.EnsureFallbackTunnel(family); changed != wantChanged || err != nil {
			t.Errorf("EnsureFallbackTunnel: changed %t, %v, want %t", changed, err, wantChanged)
		}
	}
	if got := s.state(name); got != up {
		t.Errorf("state %q, want %q", got, up)
	}
	if err := s.EnsureLinkDown(name); err != nil {
		t.Error(err)
	}
	if got := s.state(name); !strings.HasSuffix(got, " down") {
		t.Errorf("state %q", got)
	}
	if changed, err := s.EnsureFallbackTunnel(family); !changed || err != nil || s.state(name) != up {
		t.Errorf("up again: changed %t, %v, %q", changed, err, s.state(name))
	}
}

func testTunnels(t *testing.T, fresh func(*testing.T) system) {
	for family, up := range map[inet.Family]string{
		inet.IPv4: "tunl0 ipip mtu 1480 up",
		inet.IPv6: "ip6tnl0 ip6tnl mtu 1452 up",
	} {
		t.Run(family.String(), func(t *testing.T) { testTunnel(t, fresh(t), family, up) })
	}
}

func testAddrs(t *testing.T, s system) {
	s.addLink("v0", 1400, "192.168.66.11/24", "192.168.66.111/32", "fd00:66::11/64")
	s.addLink("v1", 9000, "10.1.2.3/8")
	addrs, err := s.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range addrs {
		// The kernel adds link-local addresses of its own.
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			got = append(got, fmt.Sprintf("%s %d %s", a.Link, a.MTU, a.Prefix))
		}
	}
	want := []string{
		"lo 65536 127.0.0.1/8", "lo 65536 ::1/128",
		"v0 1400 192.168.66.11/24", "v0 1400 192.168.66.111/32", "v0 1400 fd00:66::11/64", "v1 9000 10.1.2.3/8",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("addresses:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func testFind(t *testing.T, s system) {
	s.addLink("v0", 1400, "192.168.66.11/24")
	s.addLink("v1", 9000, "192.168.66.12/32", "fd00:66::11/64")
	for addr, want := range map[string]string{
		"192.168.66.11": "v0 1400 192.168.66.11/24",
		"192.168.66.12": "v1 9000 192.168.66.12/32",
		"fd00:66::11":   "v1 9000 fd00:66::11/64",
	} {
		l, err := s.Find(netip.MustParseAddr(addr))
		if got := fmt.Sprintf("%s %d %s", l.Name, l.MTU, l.Prefix); err != nil || got != want || l.Index == 0 {
			t.Errorf("Find(%s) = %s, %v, want %s", addr, got, err, want)
		}
	}
	for _, addr := range []string{"192.168.66.13", "fd00:66::12"} {
		if _, err := s.Find(netip.MustParseAddr(addr)); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), addr) {
			t.Errorf("Find(%s): %v, want ErrNotFound", addr, err)
		}
	}
}

func testHairpin(t *testing.T, s system) {
	s.ensure(t, 1500, true, "kube-bridge bridge mtu 1500 up")
	s.addLink(bridge, 1500, "10.244.1.1/24")
	s.addLink("v0", 1500)
	s.addLink("v1", 1500)
	s.addLink("v2", 1500)
	s.addPort(bridge, "v0")
	pods := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00::/64")}
	for _, step := range []struct{ changed int }{{1}, {0}} {
		if changed, err := s.EnsureHairpin(pods); err != nil || changed != step.changed {
			t.Errorf("changed %d, %v, want %d", changed, err, step.changed)
		}
	}
	s.addPort(bridge, "v1")
	if changed, err := s.EnsureHairpin(pods); err != nil || changed != 1 {
		t.Errorf("a new port: changed %d, %v", changed, err)
	}
	if changed, err := s.EnsureHairpin(pods[1:]); err != nil || changed != 0 {
		t.Errorf("another network: changed %d, %v", changed, err)
	}
	for name, want := range map[string]bool{"v0": true, "v1": true, "v2": false} {
		if s.hairpin(name) != want {
			t.Errorf("%s in hairpin mode: %t, want %t", name, !want, want)
		}
	}
}

func testBridges(t *testing.T, s system) {
	expect := func(want string) {
		t.Helper()
		if got, err := s.Bridges(); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%v (%v), want %s", got, err, want)
		}
	}
	s.addOther("eth0")
	expect("[]")
	s.ensure(t, 1500, true, "kube-bridge bridge mtu 1500 up")
	expect("[{kube-bridge [] []}]")
	s.addLink(bridge, 1500, "10.244.1.1/24", "10.9.0.3/16")
	for _, name := range []string{"veth1", "veth2"} {
		s.addVeth(name)
	}
	s.addPort(bridge, "veth1")
	expect("[{kube-bridge [10.244.1.0/24 10.9.0.0/16] []}]")
	s.addPort(bridge, "eth0")
	expect("[{kube-bridge [10.244.1.0/24 10.9.0.0/16] [eth0]}]")
}

// openRecord is a record as the next run of the agent, or clean-up, sees it.
func openRecord(path string) *record.File { return record.Open(path, slog.New(slog.DiscardHandler)) }

func (s system) restore(t *testing.T, r *record.File, want ...string) {
	t.Helper()
	done, err := s.Restore(r)
	if err != nil || !slices.Equal(done, want) {
		t.Errorf("Restore = %q, %v, want %q", done, err, want)
	}
}

func testRestore(t *testing.T, s system) {
	path := filepath.Join(t.TempDir(), "before.json")
	s.record(openRecord(path))
	s.ensure(t, 1500, true, "kube-bridge bridge mtu 1500 up")
	s.addLink(bridge, 1500, "10.244.1.1/24")
	for _, name := range []string{"v0", "v1"} {
		s.addLink(name, 1500)
		s.addPort(bridge, name)
	}
	if changed, err := s.EnsureHairpin([]netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}); changed != 2 || err != nil {
		t.Fatalf("changed %d, %v", changed, err)
	}
	r := openRecord(path)
	r.Note(map[string]record.Entry{hairpinEntry + "gone": {Before: "off", Set: "on"}})
	s.restore(t, r, "v0 hairpin off", "v1 hairpin off")
	s.restore(t, openRecord(path))
	if s.hairpin("v0") || s.hairpin("v1") {
		t.Error("ports are still in hairpin mode")
	}
}

// testRestoreTunnel needs the kernel's tunnel modules. A tunnel that somebody
// else had set up stays up.
func testRestoreTunnel(t *testing.T, s system) {
	path := filepath.Join(t.TempDir(), "before.json")
	s.record(openRecord(path))
	ensure := func() {
		t.Helper()
		if _, err := s.EnsureFallbackTunnel(inet.IPv4); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	ensure()
	s.restore(t, openRecord(path), "tunl0 down")
	if got := s.state("tunl0"); got != "tunl0 ipip mtu 1480 down" {
		t.Errorf("state %q", got)
	}
	if err := s.EnsureLinkUp("tunl0"); err != nil {
		t.Fatal(err)
	}
	s.record(openRecord(path))
	ensure()
	s.restore(t, openRecord(path))
	if got := s.state("tunl0"); got != "tunl0 ipip mtu 1480 up" {
		t.Errorf("state %q", got)
	}
}

func testDelete(t *testing.T, s system) {
	s.ensure(t, 1500, true, "kube-bridge bridge mtu 1500 up")
	s.addLink("v0", 1500)
	s.addPort(bridge, "v0")
	if deleted, err := s.Delete(bridge, "bridge"); deleted || !errors.Is(err, ErrInUse) || !strings.Contains(fmt.Sprint(err), "v0") {
		t.Errorf("a bridge with a port: %t, %v", deleted, err)
	}
	if deleted, err := s.Delete("v0", "dummy"); deleted || err != nil {
		t.Errorf("another kind: %t, %v", deleted, err)
	}
	s.addPort("", "v0")
	for _, want := range []bool{true, false} {
		if exists, err := s.Exists(bridge, "bridge"); exists != want || err != nil {
			t.Errorf("exists %t, %v, want %t", exists, err, want)
		}
		if exists, err := s.Exists(bridge, "dummy"); exists || err != nil {
			t.Errorf("exists as another kind: %t, %v", exists, err)
		}
		if deleted, err := s.Delete(bridge, "bridge"); deleted != want || err != nil {
			t.Errorf("deleted %t, %v, want %t", deleted, err, want)
		}
	}
}
