package network

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestPickAvoidsWhatIsUsed(t *testing.T) {
	for _, c := range []struct {
		name string
		used []string
		want int
	}{
		{"nothing used", nil, 66},
		{"another lab", []string{"192.168.66.1/24"}, 67},
		{"a wider network over the first ones", []string{"192.168.64.9/21"}, 72},
		{"elsewhere, and IPv6", []string{"10.0.0.1/8", "fe80::1/64"}, 66},
	} {
		var used []netip.Prefix
		for _, u := range c.used {
			used = append(used, netip.MustParsePrefix(u))
		}
		if got, err := pick(used, 1); err != nil || got.ID != c.want {
			t.Errorf("%s: picked %d, %v; want %d", c.name, got.ID, err, c.want)
		}
	}
	if _, err := pick([]netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}, 1); err == nil {
		t.Error("picked a network although all are used")
	}
}

func TestTwoSubnets(t *testing.T) {
	n, err := pick([]netip.Prefix{netip.MustParsePrefix("192.168.100.0/24")}, 2)
	if err != nil || n.ID != 67 {
		t.Fatalf("picked %+v, %v, although a lab has the second subnet of 66", n, err)
	}
	for node, want := range map[int]string{
		1: "192.168.67.11 on kr-lab67: default via 192.168.67.1, 192.168.101.0/24 via 192.168.67.2",
		2: "192.168.101.12 on kr-lab67-far: default via 192.168.101.2",
		3: "192.168.67.13 on kr-lab67: default via 192.168.67.1, 192.168.101.0/24 via 192.168.67.2",
	} {
		if got := fmt.Sprintf("%s on %s: %s", n.Node(node), n.bridgeOf(node), strings.Join(n.Ways(node), ", ")); got != want {
			t.Errorf("node %d: %s, want %s", node, got, want)
		}
	}
	one := Network{ID: 66, Subnets: 1}
	if got := fmt.Sprintf("%s %s %s", one.Node(2), one.bridgeOf(2), one.Ways(2)); got != "192.168.66.12 kr-lab66 [default via 192.168.66.1]" {
		t.Errorf("with one subnet: %s", got)
	}
}

func TestFamilies(t *testing.T) {
	for _, test := range []struct {
		network Network
		want    string
	}{
		{Network{ID: 66}, "[192.168.66.1/24] [192.168.66.12/24] [default via 192.168.66.1]"},
		{Network{ID: 66, Families: DualStack}, "[192.168.66.1/24 fd00:c0a8:42::1/64] [192.168.66.12/24 fd00:c0a8:42::c/64] [default via 192.168.66.1 default via fd00:c0a8:42::1]"},
		{Network{ID: 66, Families: IPv6}, "[fd00:c0a8:42::1/64] [fd00:c0a8:42::c/64] [default via fd00:c0a8:42::1]"},
	} {
		n := test.network
		if got := fmt.Sprint(n.HostPrefixes(), n.NodePrefixes(2), n.Ways(2)); got != test.want {
			t.Errorf("%+v:\n%s, want\n%s", n, got, test.want)
		}
	}
	if got, want := AddressOn(netip.MustParsePrefix("fd00::1/64"), "eth0"), "address add fd00::1/64 dev eth0 nodad"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestNames(t *testing.T) {
	n := Network{ID: 66}
	got := []string{n.Host().String(), n.Node(2).String(), n.Bridge(), n.Tap(2)}
	want := []string{"192.168.66.1", "192.168.66.12", "kr-lab66", "kr-lab66-2"}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %s, want %s", got[i], want[i])
		}
	}
}
