package config

import (
	"net/netip"
	"testing"

	"github.com/kube-router/kube-router/internal/peering"
)

// Flags of several values: uses add up, and host bits are dropped.
func TestLists(t *testing.T) {
	for _, tc := range []struct {
		args string
		want func(c *Config)
	}{
		// Lists that are given twice add up; the first use replaces the default.
		{"--service-cluster-ip-range=10.43.0.0/16 --service-cluster-ip-range=fd00:43::/112", func(c *Config) {
			c.Services.ClusterIPRanges = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")}
			c.Services.RejectUnassigned = true
		}},
		{"--excluded-cidrs=10.9.0.0/16,10.8.0.0/16 --excluded-cidrs= --excluded-cidrs=10.7.0.0/16", func(c *Config) {
			c.Services.ExcludedCIDRs = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("10.8.0.0/16"), netip.MustParsePrefix("10.7.0.0/16")}
		}},
		{"--peer-router-ips=192.0.2.1 --peer-router-asns=65100 --peer-router-ports=1790 --peer-router-passwords=aHVudGVyMg== " +
			"--peer-router-ips=192.0.2.2 --peer-router-asns=65101 --peer-router-ports=179 --peer-router-passwords=bWVzaA==", func(c *Config) {
			c.BGP.Routers = []peering.Router{router("192.0.2.1", 65100), router("192.0.2.2", 65101)}
			c.BGP.Routers[0].Port, c.BGP.Routers[1].Port = 1790, 179
			c.BGP.Routers[0].Password, c.BGP.Routers[1].Password = "hunter2", "mesh"
		}},
		// Of one value the last one counts.
		{"--health-port=1 --health-port=2", func(c *Config) { c.HealthAddress = "127.0.0.1:2" }},
		{"--service-cluster-ip-range=10.96.0.1/12 --loadbalancer-ip-range=192.0.2.1/32,198.51.100.7/24", func(c *Config) {
			c.Services.RejectUnassigned = true
			c.Services.LoadBalancerIPRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("198.51.100.0/24")}
			c.Warnings = []string{
				"--service-cluster-ip-range: 10.96.0.1/12 has bits set beyond its prefix length; the network 10.96.0.0/12 is taken",
				"--loadbalancer-ip-range: 198.51.100.7/24 has bits set beyond its prefix length; the network 198.51.100.0/24 is taken",
			}
		}},
	} {
		parses(t, tc.args, tc.want)
	}
	for args, want := range map[string]string{
		"--excluded-cidrs=10.0.0.1/0": "--excluded-cidrs=10.0.0.1/0: entry 1: 10.0.0.1/0 is every address; that is written 0.0.0.0/0, and the one address 10.0.0.1/32",
		"--service-cluster-ip-range=": "--service-cluster-ip-range=: there is no range; leave the flag out, or set it to one such as 10.96.0.0/12",
		"--service-cluster-ip-range=10.0.0.0/16,fd00::/112 --service-cluster-ip-range=fd01::/112": "--service-cluster-ip-range=fd01::/112: too many; allowed are at most 2",
		"--peer-router-ips=192.0.2.1 --peer-router-ips=192.0.2.1":                                 "--peer-router-ips: 192.0.2.1 is there twice",
		"--peer-router-ips=192.0.2.1 --peer-router-passwords= --peer-router-passwords=hunter2":    "--peer-router-passwords: entry 1: the password is not base64; 'printf %s PASSWORD | base64' writes it",
	} {
		refuses(t, args, want)
	}
}
