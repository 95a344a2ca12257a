package services

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/healthcheck"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// many publishes n Services of two endpoints.
func many(n int) event {
	return func(f *cluster.Feeds) {
		for i := range n {
			name := fmt.Sprintf("s%d", i)
			ip := netip.AddrFrom4([4]byte{10, 96, byte(1 + i/250), byte(1 + i%250)})
			set(service(name, ip.String(), tcp(80, 0)), slice(name, 8080, ready("10.244.1.2", "n1"), ready("10.244.2.2", "n2")))(f)
		}
	}
}

// filled is a controller that has programmed n Services into fakes, to be
// worked by hand.
func filled(b *testing.B, n int) (*Controller, *cluster.Feeds) {
	feeds := cluster.NewFeeds()
	c := New(config4(), feeds, Drivers{
		OpenIPVS: func() (ipvs.Interface, error) { return ipvs.NewFake(), nil },
		Routes:   route.NewFake(), Sets: ipset.NewFake(), Sysctl: sysctl.NewFake(nil),
		Flows: conntrack.NewFake(), Health: &checks{of: map[cluster.Key]healthcheck.Check{}}, Links: link.NewFake(),
		Rules:   map[inet.Family]*iptables.Ruleset{inet.IPv4: iptables.NewRuleset(iptables.NewFake(), inet.IPv4, slog.New(slog.DiscardHandler))},
		Modules: func(...string) error { return nil },
	}, &warnings{}, slog.New(slog.DiscardHandler))
	set(n1)(feeds)
	many(n)(feeds)
	for s := range stepService {
		c.queue.Mark(key{step: s})
	}
	for range 3 {
		c.work(b.Context(), c.queue.Take(b.Context()))
	}
	return c, feeds
}

// What a change of one endpoint costs does not depend on the other Services.
func BenchmarkEndpointChange(b *testing.B) {
	for _, n := range []int{100, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			c, feeds := filled(b, n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				set(slice("s7", 8080, ready(fmt.Sprintf("10.244.1.%d", 2+i%200), "n1")))(feeds)
				c.work(b.Context(), c.queue.Take(b.Context()))
			}
		})
	}
}

func BenchmarkFirstFill(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				filled(b, n)
			}
		})
	}
}
