package network

import (
	"net/netip"
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
		if got, err := pick(used); err != nil || got.ID != c.want {
			t.Errorf("%s: picked %d, %v; want %d", c.name, got.ID, err, c.want)
		}
	}
	if _, err := pick([]netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}); err == nil {
		t.Error("picked a network although all are used")
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
