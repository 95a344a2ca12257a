//go:build kernel

package route

import (
	"net/netip"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// BenchmarkList is a look at the routes of 5,000 Services, as after each event
// of a link.
func BenchmarkList(b *testing.B) {
	nstest.New(b)
	s, err := Open()
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var changes []Change
	for i := range 5000 {
		r := Route{Key: Key{Local, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 32)}, Type: LocalType, NextHops: []NextHop{{Link: "lo"}}}
		changes = append(changes, Change{r.Key, &r})
	}
	for _, err := range s.Apply(changes) {
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if routes, err := s.List(Local); err != nil || len(routes) != 5000 {
			b.Fatal(len(routes), err)
		}
	}
}
