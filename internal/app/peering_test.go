package app

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/peering"
	"github.com/kube-router/kube-router/internal/routes"
)

var comparable = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b <-chan struct{}) bool { return a == b }),
}

func prefixes(text string) (list []netip.Prefix) {
	for _, word := range strings.Fields(text) {
		list = append(list, netip.MustParsePrefix(word))
	}
	return list
}

// What is not taken from peers follows from the flags of Services, as far as
// Services are watched.
func TestPeeringFollowsTheFlags(t *testing.T) {
	usual := peering.Config{
		Families: []inet.Family{inet.IPv4}, ASN: 64512, Port: 179, Between: true, FullMesh: true,
		DeferralTime: 30 * time.Second, HoldTime: 90 * time.Second,
	}
	const ranges = " --service-external-ip-range=203.0.113.0/24 --loadbalancer-ip-range=198.51.100.0/24"
	for flags, change := range map[string]func(*peering.Config){
		"":     func(*peering.Config) {},
		ranges: func(c *peering.Config) { c.Reject = prefixes("203.0.113.0/24 198.51.100.0/24") },
		ranges + " --service-cluster-ip-range=10.43.0.0/16": func(c *peering.Config) {
			c.Reject = prefixes("203.0.113.0/24 198.51.100.0/24 10.43.0.0/16")
		},
		"--service-cluster-ip-range=10.96.0.0/12": func(c *peering.Config) { c.Reject = prefixes("10.96.0.0/12") },
		"--run-service-proxy=false" + ranges:      func(*peering.Config) {},
		"--run-service-proxy=false --advertise-external-ip" + ranges: func(c *peering.Config) {
			c.Reject = prefixes("203.0.113.0/24 198.51.100.0/24")
		},
		"--cluster-asn=65001 --bgp-port=1790 --nodes-full-mesh=false --enable-ibgp=false --router-id=1.2.3.4 --override-nexthop": func(c *peering.Config) {
			c.ASN, c.Port, c.FullMesh, c.Between, c.NextHopSelf = 65001, 1790, false, false, true
			c.RouterID = netip.MustParseAddr("1.2.3.4")
		},
		"--peer-router-ips=192.0.2.1 --peer-router-asns=65100 --peer-router-max-prefixes=5 --bgp-holdtime=9s --enable-bfd": func(c *peering.Config) {
			c.Routers = []peering.Router{{Addr: netip.MustParseAddr("192.0.2.1"), ASN: 65100}}
			c.MaxPrefixes, c.HoldTime = 5, 9*time.Second
			c.BFD = bgp.BFD{Enabled: true, Port: 3784, Multiplier: 3, MinTx: time.Second, MinRx: time.Second}
		},
	} {
		want := usual
		change(&want)
		got := peeringConfig(testAgent(t, strings.Fields(flags)...).cfg)
		if d := cmp.Diff(want, got, comparable); d != "" {
			t.Errorf("%q (-want +got):\n%s", flags, d)
		}
	}
}

func TestAddressesToTellFollowTheFlags(t *testing.T) {
	served := make(<-chan struct{})
	usual := routes.VIPs{Watch: true, ClusterIPRanges: prefixes("10.96.0.0/12"), Guessed: true, Discard: true, Served: served}
	for flags, change := range map[string]func(*routes.VIPs){
		"":                          func(*routes.VIPs) {},
		"--run-service-proxy=false": func(v *routes.VIPs) { v.Watch, v.Discard = false, false },
		"--excluded-cidrs=10.96.9.0/24,203.0.113.9/32": func(v *routes.VIPs) { v.ExcludedCIDRs = prefixes("10.96.9.0/24 203.0.113.9/32") },
		// Another proxy serves what ours would leave to others.
		"--run-service-proxy=false --advertise-external-ip --excluded-cidrs=203.0.113.9/32": func(v *routes.VIPs) {
			v.ExternalIPs, v.Discard = true, false
		},
		"--run-service-proxy=false --peer-router-ips=192.0.2.1 --peer-router-asns=65100": func(v *routes.VIPs) { v.Discard = false },
		"--advertise-cluster-ip --advertise-service-ranges --strict-external-ip-validation=false": func(v *routes.VIPs) {
			v.ClusterIPs, v.Aggregate, v.AnyIP = true, true, true
		},
		"--advertise-external-ip --advertise-loadbalancer-ip --service-cluster-ip-range=10.43.0.0/16 --service-external-ip-range=203.0.113.0/24 --loadbalancer-ip-range=198.51.100.0/24": func(v *routes.VIPs) {
			v.ExternalIPs, v.LoadBalancerIPs, v.Guessed = true, true, false
			v.ClusterIPRanges, v.ExternalIPRanges, v.LoadBalancerIPRanges = prefixes("10.43.0.0/16"), prefixes("203.0.113.0/24"), prefixes("198.51.100.0/24")
		},
	} {
		want := usual
		change(&want)
		got := vipConfig(testAgent(t, strings.Fields(flags)...).cfg, served)
		if d := cmp.Diff(want, got, comparable); d != "" {
			t.Errorf("%q (-want +got):\n%s", flags, d)
		}
	}
}
