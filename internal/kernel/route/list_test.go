package route

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// newListing reads routes on a host where eth0 is link 2 and tun 3.
func newListing(table int) *listing {
	return &listing{table: table, routes: map[Key]Route{}, names: map[int]string{}, nameOf: func(index int) string { return map[int]string{2: "eth0", 3: "tun"}[index] }}
}

// encoded is a route as it is written to the kernel, which answers in the same
// form.
func encoded(t testing.TB, r Route) []byte {
	t.Helper()
	b := batch{links: map[string]int{"": 0, "eth0": 2, "tun": 3}}
	body, err := b.encode(r, byte(scope(r)))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func samples() []Route {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	return []Route{
		{Key: Key{Local, prefix("10.96.0.1/32")}, Type: LocalType, Src: addr("192.168.1.11"), NextHops: []NextHop{{Link: "eth0"}}},
		{Key: Key{Main, prefix("10.244.2.0/24")}, Type: Unicast, NextHops: []NextHop{{Via: addr("192.168.1.12")}}},
		{Key: Key{1000, prefix("0.0.0.0/0")}, Type: Unicast, NextHops: []NextHop{{Via: addr("192.168.1.12"), Link: "tun", OnLink: true}}},
		{Key: Key{Main, prefix("10.9.0.0/16")}, Type: Unicast, NextHops: []NextHop{{Via: addr("192.168.1.12"), Link: "eth0"}, {Via: addr("192.168.1.13"), Link: "eth0", OnLink: true}}},
		{Key: Key{Main, prefix("10.8.0.0/16")}, Type: Unreachable},
		{Key: Key{Main, prefix("fd00:244:2::/64")}, Type: Unicast, NextHops: []NextHop{{Via: addr("fd00::12"), Link: "eth0"}}},
		{Key: Key{Local, prefix("fd00:96::1/128")}, Type: LocalType, NextHops: []NextHop{{Link: "eth0"}}},
	}
}

// What is written is read as it was meant, and of the table that was asked for.
func TestRoutesAreReadAsTheyAreWritten(t *testing.T) {
	all, main := newListing(0), newListing(Main)
	want, wantMain := map[Key]Route{}, map[Key]Route{}
	for _, r := range samples() {
		for _, l := range []*listing{all, main} {
			if err := l.message(encoded(t, r)); err != nil {
				t.Errorf("%s: %v", r, err)
			}
		}
		want[r.Key] = r
		if r.Table == Main {
			wantMain[r.Key] = r
		}
	}
	equal := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	prefixes := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, all.routes, equal, prefixes); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantMain, main.routes, equal, prefixes); diff != "" {
		t.Errorf("main (-want +got):\n%s", diff)
	}
}

// Routes of others are not ours, nor are those that the kernel made of ours.
func TestRoutesOfOthersAreLeftOut(t *testing.T) {
	l := newListing(0)
	for at, value := range map[int]byte{rtmProtocol: 3, rtmFlags + 1: 2} {
		body := encoded(t, samples()[0])
		body[at] = value
		if err := l.message(body); err != nil || len(l.routes) > 0 {
			t.Errorf("byte %d is %d: %v, %v", at, value, l.routes, err)
		}
	}
}

// No answer makes the agent panic, and what is cut off is an error.
func FuzzRoutes(f *testing.F) {
	for _, r := range samples() {
		f.Add(encoded(f, r))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		l := newListing(0)
		if err := l.message(body); err != nil {
			return
		}
		for key, r := range l.routes {
			if !key.Dst.IsValid() || r.Key != key {
				t.Errorf("%v: %v", key, r)
			}
		}
	})
}

func TestACutOffRoute(t *testing.T) {
	for _, r := range samples() {
		body := encoded(t, r)
		if err := newListing(0).message(body[:len(body)-1]); err == nil {
			t.Errorf("%s: no error", r)
		}
	}
}
