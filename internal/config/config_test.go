package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/peering"
)

// onNode1 is an environment that sets nothing but the node's name.
func onNode1(name string) string {
	if name == "NODE_NAME" {
		return "node-1"
	}
	return ""
}

func defaults() Config {
	return Config{
		RunRouter: true, RunServiceProxy: true, RunFirewall: true,
		NodeName:      "node-1",
		EnableIPv4:    true,
		RecordFile:    "/run/kube-router/before.json",
		HealthAddress: "127.0.0.1:20244",
		MetricsPath:   "/metrics",
		Socket:        "/run/kube-router/kube-router.sock",
		BGP: BGP{
			ASN: 64512, NodePeers: true, NodesFullMesh: true, Port: 179,
			GracefulRestartTime: 90 * time.Second, DeferralTime: 30 * time.Second, HoldTime: 90 * time.Second,
			AdminAddress: "127.0.0.1:50051",
			Advertise:    Advertise{PodCIDRs: true},
		},
		CNI:     CNI{Enabled: true, File: "/etc/cni/net.d/10-kuberouter.conflist", PodEgress: true, AutoMTU: true},
		Overlay: Overlay{Type: OverlaySubnet, Encap: OverlayIPIP, Port: 5555},
		Services: Services{
			ClusterIPRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
			NodePorts:       PortRange{30000, 32767},
			Scheduler:       "rr",
			Guard:           true,
		},
		Policy: Policy{NewPods: NewPodsSelected},
		LoadBalancer: LoadBalancer{
			DefaultClass: true, SyncPeriod: time.Minute, Namespace: "kube-system", Identity: "node-1",
		},
		IPTablesSyncPeriod: 5 * time.Minute, IPVSSyncPeriod: 5 * time.Minute, RoutesSyncPeriod: 5 * time.Minute,
	}
}

func router(ip string, asn uint32) peering.Router {
	return peering.Router{Addr: netip.MustParseAddr(ip), ASN: asn}
}

// parses checks what a command line makes of the defaults.
func parses(t *testing.T, args string, change func(*Config)) {
	t.Helper()
	t.Run(args, func(t *testing.T) {
		want := defaults()
		change(&want)
		got, err := Parse(strings.Fields(args), onNode1)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// refuses checks that a command line is refused in these words.
func refuses(t *testing.T, args, want string) {
	t.Helper()
	t.Run(args, func(t *testing.T) {
		_, err := Parse(strings.Fields(args), onNode1)
		if err == nil {
			t.Fatal("accepted")
		}
		if err.Error() != want {
			t.Errorf("got  %s\nwant %s", err, want)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Error("more than one line")
		}
	})
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		args string
		want func(c *Config)
	}{
		{"", func(c *Config) {}},
		// The manifests of the seeds.
		{"--run-router=true --run-firewall=true --run-service-proxy=true --bgp-graceful-restart=true",
			func(c *Config) { c.BGP.GracefulRestart = true }},
		{"--run-router=false --run-firewall=false --run-service-proxy=true",
			func(c *Config) { c.RunRouter, c.RunFirewall = false, false }},
		{"--policy-new-pods=open", func(c *Config) { c.Policy.NewPods = NewPodsOpen }},
		{"--policy-cut-flows", func(c *Config) { c.Policy.CutFlows = true }},
		{"--netpol-default-deny", func(c *Config) { c.Policy.NewPods = NewPodsClosed }},
		{"--run-service-proxy=true --run-router=true --run-firewall=true --metrics-port=8080",
			func(c *Config) { c.MetricsAddress = "127.0.0.1:8080" }},
		{"--run-service-proxy=true --hairpin-mode=true", func(c *Config) { c.Services.HairpinMode = true }},
		{"--run-service-proxy=true --service-proxy-scheduling-algorithm=lc", func(c *Config) { c.Services.Scheduler = "lc" }},

		{"--cleanup-config", func(c *Config) { c.CleanUp = true }},
		{"--cleanup-config --run-router=false --run-firewall=false --run-service-proxy=false", func(c *Config) {
			c.CleanUp, c.RunRouter, c.RunFirewall, c.RunServiceProxy = true, false, false, false
		}},
		{"--hairpin-mode", func(c *Config) { c.Services.HairpinMode = true }},
		{"--kubeconfig /etc/kube --master=https://10.0.0.1:6443",
			func(c *Config) { c.Kubeconfig, c.Master = "/etc/kube", "https://10.0.0.1:6443" }},
		{"--hostname-override=Worker-7.example.com", func(c *Config) {
			c.NodeName, c.LoadBalancer.Identity = "worker-7.example.com", "worker-7.example.com"
		}},
		{"--cluster-asn=4200000000", func(c *Config) { c.BGP.ASN = 4200000000 }},
		{"--cluster-asn=65534", func(c *Config) { c.BGP.ASN = 65534 }},
		{"--nodes-full-mesh=false --bgp-port=1179 --gobgp-admin-port=0", func(c *Config) {
			c.BGP.NodesFullMesh, c.BGP.Port, c.BGP.AdminAddress = false, 1179, ""
		}},
		// Both examples of the seeds, as printed.
		{"--nodes-full-mesh=false --peer-router-asns=64512 --peer-router-ips=192.168.1.10,192.168.1.11", func(c *Config) {
			c.BGP.NodesFullMesh, c.BGP.Routers = false, []peering.Router{router("192.168.1.10", 64512), router("192.168.1.11", 64512)}
		}},
		{"--nodes-full-mesh=false --peer-router-ips=192.168.1.10,192.168.1.11", func(c *Config) {
			c.BGP.NodesFullMesh, c.BGP.Routers = false, []peering.Router{router("192.168.1.10", 0), router("192.168.1.11", 0)}
		}},
		{"--peer-router-ips=192.0.2.1,2001:db8::1 --peer-router-asns=65100,4200000001 --peer-router-ports=1790 --peer-router-passwords=,aHVudGVyMg==", func(c *Config) {
			c.BGP.Routers = []peering.Router{router("192.0.2.1", 65100), router("2001:db8::1", 4200000001)}
			c.BGP.Routers[0].Port, c.BGP.Routers[1].Port, c.BGP.Routers[1].Password = 1790, 1790, "hunter2"
		}},
		{"--peer-router-multihop-ttl=3 --peer-router-max-prefixes=1000 --bgp-holdtime=9s --override-nexthop", func(c *Config) {
			c.BGP.MultihopTTL, c.BGP.MaxPrefixes, c.BGP.HoldTime, c.BGP.NextHopSelf = 3, 1000, 9*time.Second, true
		}},
		{"--enable-bfd --bfd-port=4784 --bfd-detection-multiplier=5 --bfd-desired-min-tx-interval=300 --bfd-required-min-rx-interval=200", func(c *Config) {
			c.BGP.BFD = bgp.BFD{Enabled: true, Port: 4784, Multiplier: 5, MinTx: 300 * time.Millisecond, MinRx: 200 * time.Millisecond}
		}},
		{"--enable-ibgp=false --advertise-pod-cidr=false --advertise-cluster-ip --advertise-external-ip --advertise-loadbalancer-ip --advertise-service-ranges", func(c *Config) {
			c.BGP.NodePeers, c.BGP.Advertise = false, Advertise{ClusterIPs: true, ExternalIPs: true, LoadBalancerIPs: true, Ranges: true}
			c.Warnings = []string{"--advertise-service-ranges: cluster IPs are told one by one, because nobody said which range they are of: set --service-cluster-ip-range"}
		}},
		{"--advertise-cluster-ip --advertise-service-ranges --service-cluster-ip-range=10.43.0.0/16", func(c *Config) {
			c.BGP.Advertise.ClusterIPs, c.BGP.Advertise.Ranges = true, true
			c.Services.ClusterIPRanges, c.Services.RejectUnassigned = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, true
		}},
		{"--bgp-graceful-restart-deferral-time=1m", func(c *Config) { c.BGP.DeferralTime = time.Minute }},
		{"--bgp-graceful-restart-deferral-time=6m", func(c *Config) {
			c.BGP.DeferralTime = 90 * time.Second
			c.Warnings = []string{"--bgp-graceful-restart-deferral-time=6m: --bgp-graceful-restart-time=1m30s is taken: peers have dropped the routes after that"}
		}},
		{"--bgp-graceful-restart-time=10s", func(c *Config) { c.BGP.GracefulRestartTime, c.BGP.DeferralTime = 10*time.Second, 10*time.Second }},
		{"--gobgp-admin-address=::1 --gobgp-admin-port=50052", func(c *Config) { c.BGP.AdminAddress = "[::1]:50052" }},
		{"--gobgp-admin-address=192.0.2.9", func(c *Config) {
			c.BGP.AdminAddress = "192.0.2.9:50051"
			c.Warnings = []string{"--gobgp-admin-address=192.0.2.9: whoever reaches it can change the routes of this node"}
		}},
		{"--injected-routes-sync-period=30s", func(c *Config) {
			c.Warnings = []string{"--injected-routes-sync-period has no effect: a route that something removes is put back at once; --routes-sync-period is how often all are looked at"}
		}},
		{"--router-id=10.0.0.9", func(c *Config) { c.BGP.RouterID = netip.MustParseAddr("10.0.0.9") }},
		{"--router-id=generate", func(c *Config) { c.BGP.GenerateRouterID = true }},
		{"--bgp-graceful-restart-time=4095s", func(c *Config) { c.BGP.GracefulRestartTime = 4095 * time.Second }},
		{"--health-port=0", func(c *Config) { c.HealthAddress = "" }},
		{"--health-addr=::1", func(c *Config) { c.HealthAddress = "[::1]:20244" }},
		{"--metrics-addr= --metrics-port=8080", func(c *Config) { c.MetricsAddress = ":8080" }},
		{"--metrics-path=/a/b-c_d.e", func(c *Config) { c.MetricsPath = "/a/b-c_d.e" }},
		{"--enable-pprof", func(c *Config) { c.ProfilesAddress = "127.0.0.1:6060" }},
		{"--use-nftables-for-netpol", func(c *Config) {
			c.Warnings = []string{"--use-nftables-for-netpol has no effect: policies are in iptables' chains, which are nftables where the host's iptables is; they are not rewritten whole"}
		}},
		{"--metrics-addr=::1 --metrics-port=20244", func(c *Config) { c.MetricsAddress = "[::1]:20244" }},
		{"--enable-cni=false --enable-pod-egress=false", func(c *Config) { c.CNI.Enabled, c.CNI.PodEgress = false, false }},
		{"--pod-egress-exclude-cidrs=10.0.0.0/8,fd00::/8 --auto-mtu=false", func(c *Config) {
			c.CNI.EgressExcluded = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
			c.CNI.AutoMTU = false
		}},
		{"--enable-overlay", func(c *Config) { c.Overlay.Enabled = true }},
		{"--enable-overlay=true --overlay-type=full --overlay-encap=fou", func(c *Config) {
			c.Overlay = Overlay{Enabled: true, Type: OverlayFull, Encap: OverlayFoU, Port: 5555}
		}},
		{"--enable-overlay --overlay-encap=vxlan", func(c *Config) {
			c.Overlay = Overlay{Enabled: true, Type: OverlaySubnet, Encap: OverlayVXLAN, Port: 4789}
		}},
		{"--enable-overlay --overlay-encap=vxlan --overlay-encap-port=5555", func(c *Config) {
			c.Overlay = Overlay{Enabled: true, Type: OverlaySubnet, Encap: OverlayVXLAN, Port: 5555}
		}},
		{"--overlay-type=full", func(c *Config) {
			c.Overlay.Type = OverlayFull
			c.Warnings = []string{"--overlay-type has no effect without --enable-overlay=true"}
		}},
		{"--service-cluster-ip-range=10.43.0.0/16,fd00:43::/112 --enable-ipv6", func(c *Config) {
			c.Services.ClusterIPRanges = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")}
			c.EnableIPv6, c.Services.RejectUnassigned = true, true
		}},
		{"--service-external-ip-range=203.0.113.0/24,2001:db8::/64 --loadbalancer-ip-range=198.51.100.0/28", func(c *Config) {
			c.Services.ExternalIPRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/64")}
			c.Services.LoadBalancerIPRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}
		}},
		{"--strict-external-ip-validation=false --nodeport-bindon-all-ip --ipvs-permit-all=false --service-proxy-dsr=true", func(c *Config) {
			c.Services.AnyIP, c.Services.NodePortsEverywhere, c.Services.Guard, c.Services.DSR = true, true, false, true
		}},
		{"--ipvs-graceful-termination", func(c *Config) { c.Services.GracePeriod = 30 * time.Second }},
		{"--ipvs-graceful-period=1m", func(*Config) {}},
		{"--ipvs-graceful-termination --ipvs-graceful-period=1m --excluded-cidrs=10.9.0.0/16", func(c *Config) {
			c.Services.GracePeriod = time.Minute
			c.Services.ExcludedCIDRs = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}
		}},
		{"--service-tcp-timeout=1h --service-tcpfin-timeout=1m --service-udp-timeout=30s", func(c *Config) {
			c.Services.TCPTimeout, c.Services.TCPFinTimeout, c.Services.UDPTimeout = time.Hour, time.Minute, 30*time.Second
		}},
		{"--runtime-endpoint=unix:///run/containerd/containerd.sock", func(c *Config) {
			c.Warnings = []string{"--runtime-endpoint has no effect: direct server return needs nothing of the container runtime"}
		}},
		{"--service-node-port-range=20000:20999", func(c *Config) { c.Services.NodePorts = PortRange{20000, 20999} }},
		{"--iptables-sync-period=1m --ipvs-sync-period=90s --routes-sync-period=1h", func(c *Config) {
			c.IPTablesSyncPeriod, c.IPVSSyncPeriod, c.RoutesSyncPeriod = time.Minute, 90*time.Second, time.Hour
		}},
		{"--run-loadbalancer --loadbalancer-ip-range=192.0.2.0/24,2001:db8::/64,198.51.100.7/32", func(c *Config) {
			c.RunLoadBalancer = true
			c.Services.LoadBalancerIPRanges = []netip.Prefix{
				netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64"), netip.MustParsePrefix("198.51.100.7/32"),
			}
		}},
		{"--loadbalancer-default-class=false --loadbalancer-sync-period=30s ", func(c *Config) {
			c.LoadBalancer.DefaultClass, c.LoadBalancer.SyncPeriod = false, 30*time.Second
		}},
		{"--masquerade-all -v=2", func(c *Config) { c.Services.MasqueradeAll, c.Verbosity = true, 2 }},
		{"--v 3", func(c *Config) { c.Verbosity = 3 }},
		{"--cache-sync-timeout=2m", func(c *Config) {
			c.Warnings = []string{"--cache-sync-timeout has no effect: the agent waits for the API server as long as it takes, and says so"}
		}},
	} {
		parses(t, tc.args, tc.want)
	}
}

// TestParseRefuses: what cannot be run is one line that names the flag, the
// value and what is allowed.
func TestParseRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--run-ruoter=true":                     "--run-ruoter: no such flag; did you mean --run-router? 'kube-router --help' lists all",
		"--frobnicate-the-network":              "--frobnicate-the-network: no such flag; 'kube-router --help' lists all",
		"-version":                              "--v=ersion: not a verbosity; allowed are 0 to 255 (and a long name takes two dashes)",
		"--overlay-type=vxlan":                  "--overlay-type=vxlan: not a type of overlay; allowed are subnet (tunnels to other subnets) and full (tunnels to all nodes); the kind of tunnel is --overlay-encap",
		"--overlay-encap=gre":                   "--overlay-encap=gre: not an encapsulation; allowed are ipip, fou and vxlan",
		"--overlay-encap-port=179":              "--overlay-encap-port=179: not a port; allowed are 1024 to 65535, where no service of the host is",
		"--pod-egress-exclude-cidrs=10.0.0.0":   `--pod-egress-exclude-cidrs=10.0.0.0: entry 1: "10.0.0.0" is not a CIDR; allowed is one such as 10.96.0.0/12`,
		"--run-router false":                    `unexpected argument "false": everything is a flag; the value of an on/off flag follows an equals sign (--run-router=false)`,
		"status":                                `unexpected argument "status": everything is a flag; the value of an on/off flag follows an equals sign (--run-router=false)`,
		"--run-router=maybe":                    "--run-router=maybe: allowed are true and false",
		"--kubeconfig":                          "--kubeconfig: a value is missing; write --kubeconfig=file",
		"--master=10.0.0.1":                     "--master=10.0.0.1: not the URL of a server; allowed is one such as https://10.0.0.1:6443",
		"--cluster-asn=65535":                   "--cluster-asn=65535: not a private AS number; allowed are 64512 to 65534 and 4200000000 to 4294967294 (RFC 6996)",
		"--cluster-asn=4294967295":              "--cluster-asn=4294967295: not a private AS number; allowed are 64512 to 65534 and 4200000000 to 4294967294 (RFC 6996)",
		"--cluster-asn=0":                       "--cluster-asn=0: not a private AS number; allowed are 64512 to 65534 and 4200000000 to 4294967294 (RFC 6996)",
		"--peer-router-ips=192.0.2.1,router":    "--peer-router-ips=192.0.2.1,router: entry 2: not the IP address of a router; allowed is one such as 192.0.2.1",
		"--peer-router-ips=192.0.2.1,192.0.2.1": "--peer-router-ips: 192.0.2.1 is there twice",
		"--peer-router-asns=65100":              "--peer-router-asns: there is no --peer-router-ips that it could be for; set that, or leave this out",
		"--peer-router-ips=192.0.2.1,192.0.2.2,192.0.2.3 --peer-router-asns=65100,65101": "--peer-router-asns: it has 2 entries, and --peer-router-ips has 3; allowed are one for all, and one for each",
		"--peer-router-ips=192.0.2.1 --peer-router-ports=179,180":                        "--peer-router-ports: it has 2 entries, and --peer-router-ips has 1; allowed are one for all, and one for each",
		"--peer-router-ips=192.0.2.1 --peer-router-asns=0":                               `--peer-router-asns=0: entry 1: "0" is not an AS number; allowed are 1 to 4294967294 but 23456 and 65535`,
		"--peer-router-ips=192.0.2.1 --peer-router-ports=70000":                          "--peer-router-ports=70000: entry 1: not a port; allowed are 1 to 65535",
		"--peer-router-ips=192.0.2.1 --peer-router-passwords=hunter2":                    "--peer-router-passwords: entry 1: the password is not base64; 'printf %s PASSWORD | base64' writes it",
		"--peer-router-ips=192.0.2.1 --peer-router-passwords-file=/nonexistent":          "--peer-router-passwords-file=/nonexistent: no such file or directory",
		"--nodes-password-file=/nonexistent":                                             "--nodes-password-file=/nonexistent: no such file or directory",
		"--nodes-password-file=/dev/null":                                                "--nodes-password-file=/dev/null: the file is empty",
		"--peer-router-multihop-ttl=256":                                                 "--peer-router-multihop-ttl=256: not a number of hops; allowed are 0 to 255",
		"--bgp-holdtime=2s":                                                              "--bgp-holdtime=2s: not a hold time; allowed are whole seconds, 3s to 65535s",
		"--bgp-graceful-restart-deferral-time=18h13m":                                    "--bgp-graceful-restart-deferral-time=18h13m: not a deferral time; allowed are whole seconds, 1s to 65535s",
		"--enable-bfd --peer-router-multihop-ttl=2":                                      "--enable-bfd=true --peer-router-multihop-ttl=2: BFD is for peers on a subnet of the node (RFC 5881); leave one of the two out",
		"--bfd-detection-multiplier=0":                                                   "--bfd-detection-multiplier=0: not a multiplier; allowed are 1 to 255",
		"--gobgp-admin-address=":                                                         "--gobgp-admin-address=: not an IP address; allowed is one such as 127.0.0.1 or ::1",
		"--bgp-port=0":                                                                   "--bgp-port=0: not a port; allowed are 1 to 65535",
		"--metrics-port=70000":                                                           "--metrics-port=70000: not a port; allowed are 0 to 65535, and 0 turns it off",
		"--health-port=-1":                                                               "--health-port=-1: not a port; allowed are 0 to 65535, and 0 turns it off",
		"--health-addr=localhost":                                                        "--health-addr=localhost: not an IP address; allowed are one such as 127.0.0.1 or ::1, and none at all for all addresses",
		"--metrics-path=/a//b":                                                           "--metrics-path=/a//b: not a path; allowed is one such as /metrics, of letters, digits, '-', '_', '.' and '/'",
		"--metrics-path=/{x}":                                                            "--metrics-path=/{x}: not a path; allowed is one such as /metrics, of letters, digits, '-', '_', '.' and '/'",
		"--router-id=::1":                                                                "--router-id=::1: not a router ID; allowed are an IPv4 address other than 0.0.0.0, and 'generate'",
		"--bgp-graceful-restart-time=2h":                                                 "--bgp-graceful-restart-time=2h: not a restart time; allowed are whole seconds, 1s to 4095s (RFC 4724)",
		"--ipvs-sync-period=5":                                                           "--ipvs-sync-period=5: not a duration; allowed is a number with a unit, such as 30s or 5m",
		"--ipvs-sync-period=10ms":                                                        "--ipvs-sync-period=10ms: too short; allowed is 1s or more",
		"--v=high":                                                                       "--v=high: not a verbosity; allowed are 0 to 255 (and a long name takes two dashes)",
		"--service-proxy-scheduling-algorithm=random":                                    "--service-proxy-scheduling-algorithm=random: not an IPVS scheduler; allowed are rr, wrr, lc, wlc, sh, dh, sed, nq, mh",
		"--service-node-port-range=32767-30000":                                          "--service-node-port-range=32767-30000: not a range of ports; allowed is first-last within 1 to 65535, such as 30000-32767",
		"--service-cluster-ip-range=10.96/12":                                            `--service-cluster-ip-range=10.96/12: entry 1: "10.96/12" is not a CIDR; allowed is one such as 10.96.0.0/12`,
		"--service-cluster-ip-range=10.0.0.0/16,10.1.0.0/16":                             "--service-cluster-ip-range=10.0.0.0/16,10.1.0.0/16: both are of one address family; allowed is one range of IPv4, one of IPv6, or one of each",
		"--service-cluster-ip-range=10.0.0.0/16,fd00::/112,fd01::/112":                   "--service-cluster-ip-range=10.0.0.0/16,fd00::/112,fd01::/112: too many; allowed are at most 2",
		"--loadbalancer-ip-range=10.0.0.1":                                               `--loadbalancer-ip-range=10.0.0.1: entry 1: "10.0.0.1" is not a CIDR; allowed is one such as 10.96.0.0/12`,
		"--ipvs-graceful-period=0s":                                                      "--ipvs-graceful-period=0s: too short; allowed is 1s or more",
		"--run-loadbalancer":                                                             "--run-loadbalancer=true: there are no addresses to give out; set --loadbalancer-ip-range to one or more CIDRs, such as 192.0.2.0/24",
		"--enable-ipv4=false":                                                            "--enable-ipv4=false --enable-ipv6=false: no address family is left; at least one must be true",
		"--policy-cut-flows=always":                                                      "--policy-cut-flows=always: allowed are true and false",
		"--policy-new-pods=shut":                                                         "--policy-new-pods=shut: not a mode; allowed are selected, closed and open",
		"--policy-new-pods=open --netpol-default-deny":                                   "--netpol-default-deny=true --policy-new-pods=open: they contradict each other; leave one of them out",
		"--run-router=false --run-firewall=false --run-service-proxy=false":              "--run-router=false --run-service-proxy=false --run-firewall=false: nothing is left to run; allowed is any combination with at least one of them true",
		"--hostname-override=node_1":                                                     "--hostname-override=node_1: not the name of a Node; allowed are at most 253 letters, digits, '-' and '.'; set --hostname-override to the node's name in the cluster",
	} {
		refuses(t, args, want)
	}
}

func TestEnvironment(t *testing.T) {
	env := func(vars map[string]string) func(string) string {
		return func(name string) string { return vars[name] }
	}
	c, err := Parse(nil, env(map[string]string{"NODE_NAME": " Node-2 ", "KUBE_ROUTER_CNI_CONF_FILE": "/etc/cni/net.d/05-x.conflist"}))
	if err != nil || c.NodeName != "node-2" || c.CNI.File != "/etc/cni/net.d/05-x.conflist" {
		t.Errorf("got node %q, CNI file %q, error %v", c.NodeName, c.CNI.File, err)
	}
	c, err = Parse(nil, env(map[string]string{"NODE_NAME": "n", "POD_NAME": "kube-router-x7k2p", "POD_NAMESPACE": "network"}))
	if err != nil || c.LoadBalancer.Identity != "kube-router-x7k2p" || c.LoadBalancer.Namespace != "network" {
		t.Errorf("got identity %q in %q, error %v", c.LoadBalancer.Identity, c.LoadBalancer.Namespace, err)
	}
	if c, err := Parse([]string{"--hostname-override=flag"}, onNode1); err != nil || c.NodeName != "flag" {
		t.Errorf("the flag does not win over NODE_NAME: %q, %v", c.NodeName, err)
	}
	if c, err := Parse(nil, env(nil)); err != nil || c.NodeName == "" {
		t.Errorf("without NODE_NAME the host name is not taken: %q, %v", c.NodeName, err)
	}
	_, err = Parse(nil, env(map[string]string{"NODE_NAME": "n", "KUBE_ROUTER_CNI_CONF_FILE": "x.conflist"}))
	if want := "environment variable KUBE_ROUTER_CNI_CONF_FILE=x.conflist: not an absolute path; allowed is one such as /etc/cni/net.d/10-kuberouter.conflist"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// Passwords come from files, too, and no text shows them.
func TestPasswordsOfFiles(t *testing.T) {
	dir := t.TempDir()
	routers, nodes := filepath.Join(dir, "routers"), filepath.Join(dir, "nodes")
	for file, text := range map[string]string{routers: "aHVudGVyMg==, \n", nodes: "bWVzaA==\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"--peer-router-ips=192.0.2.1,192.0.2.2", "--peer-router-asns=65100", "--peer-router-passwords-file=" + routers, "--nodes-password-file=" + nodes}
	c, err := Parse(args, onNode1)
	if err != nil {
		t.Fatal(err)
	}
	if c.BGP.NodePassword != "mesh" || c.BGP.Routers[0].Password != "hunter2" || c.BGP.Routers[1].Password != "" {
		t.Error("these are not the passwords of the files")
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "hunter2") || strings.Contains(text, `"mesh"`) || strings.Contains(text, ":mesh ") {
		t.Errorf("a password is shown: %s", text)
	}
	c, err = Parse(append(args, "--peer-router-passwords=ZmxhZw=="), onNode1)
	if err != nil || c.BGP.Routers[0].Password != "flag" || c.BGP.Routers[1].Password != "flag" {
		t.Errorf("the flag does not win over the file: %v", err)
	}
}

// Clean-up needs no Node's name: the host may be no node any more.
func TestCleanUpWithoutNodeName(t *testing.T) {
	env := func(name string) string { return map[string]string{"NODE_NAME": "my_host"}[name] }
	if c, err := Parse([]string{"--cleanup-config"}, env); err != nil || !c.CleanUp {
		t.Errorf("%t, %v", c.CleanUp, err)
	}
	if _, err := Parse(nil, env); err == nil {
		t.Error("the agent runs with a name that no Node can have")
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"--run-router=false", "-h"}} {
		if _, err := Parse(args, onNode1); !errors.Is(err, ErrHelp) {
			t.Errorf("%q: got %v, want ErrHelp", args, err)
		}
	}
	for _, args := range [][]string{{"-V"}, {"--version"}} {
		if c, err := Parse(args, onNode1); err != nil || !c.ShowVersion {
			t.Errorf("%q: ShowVersion %v, error %v", args, c.ShowVersion, err)
		}
	}
}

// What asks a running agent needs nothing of what that runs with.
func TestShowBGPPeers(t *testing.T) {
	c, err := Parse([]string{"--show-bgp-peers", "--socket=/run/other.sock", "--enable-ipv4=false"}, func(string) string { return "" })
	if err != nil || !c.ShowBGPPeers || c.Socket != "/run/other.sock" {
		t.Errorf("got %t at %q, %v", c.ShowBGPPeers, c.Socket, err)
	}
}

func TestUsage(t *testing.T) {
	usage := Usage("COMMANDS\n    some\n")
	for line := range strings.Lines(usage) {
		if len(strings.TrimSuffix(line, "\n")) > columns {
			t.Errorf("wider than %d columns: %s", columns, line)
		}
	}
	define(new(Config)).set.VisitAll(func(flag *pflag.Flag) {
		entry := "--" + flag.Name
		at := strings.Index(usage, entry+"[=")
		if at < 0 {
			at = strings.Index(usage, entry+"=")
		}
		if at < 0 {
			at = strings.Index(usage, entry+"\n")
		}
		if at < 0 {
			t.Fatalf("%s is not in the help text", entry)
		}
		line, _, _ := strings.Cut(usage[at:], "\n")
		if d := flag.DefValue; d != "" && flag.Shorthand == "" && !strings.Contains(line, "(default "+d+")") {
			t.Errorf("%s: the default %s is not in its line: %s", entry, d, line)
		}
	})
}

// FuzzParse: whatever is written, the answer is a Config or one line.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"--cluster-asn=1", "--service-cluster-ip-range=,", "--health-addr=fe80::1%eth0", "-vvv", "--=", "---", "-\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := Parse([]string{s}, onNode1)
		if err != nil && (err.Error() == "" || strings.ContainsAny(err.Error(), "\n\r")) {
			t.Errorf("not one line: %q", err)
		}
	})
}
