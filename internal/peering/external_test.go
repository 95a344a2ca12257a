package peering

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// secret is "hunter2" in base64. No problem may repeat either.
const secret = "aHVudGVyMg=="

func annotated(pairs ...string) *cluster.Node {
	n := &cluster.Node{Annotations: map[string]string{}, InternalIPs: []netip.Addr{netip.MustParseAddr("192.168.1.1")}}
	n.Name = "n1"
	for i := 0; i < len(pairs); i += 2 {
		n.Annotations[prefix+pairs[i]] = pairs[i+1]
	}
	return n
}

// external is what a node says of routers outside, a line each.
func external(t *testing.T, c Config, n *cluster.Node) string {
	t.Helper()
	own, problems, err := ReadOwn(c, n, nil)
	if err != nil {
		t.Fatal(err)
	}
	peers, more := Peers(c, own, n.Name, map[string]*cluster.Node{n.Name: n})
	var b strings.Builder
	for _, p := range peers {
		fmt.Fprintf(&b, "%s as %d", p.Addr, p.ASN)
		note := func(format string, set bool, value any) {
			if set {
				fmt.Fprintf(&b, format, value)
			}
		}
		note(" port %d", p.Port != 0, p.Port)
		note(" from %s", p.Local.IsValid(), p.Local)
		note(" password %d bytes", p.Password != "", len(p.Password))
		note(" hold %s", p.HoldTime != 0, p.HoldTime)
		note(" ttl %d", p.MultihopTTL != 0, p.MultihopTTL)
		note(" most %d", p.MaxPrefixes != 0, p.MaxPrefixes)
		note(" bfd %v", p.BFD.Enabled, p.BFD)
		if p.Role != bgp.External || p.Passive {
			t.Errorf("%+v is no external peer", p)
		}
		b.WriteString("\n")
	}
	for _, p := range append(problems, more...) {
		if strings.Contains(p.Message, "hunter") || strings.Contains(p.Message, secret) {
			t.Errorf("a password is shown: %s", p.Message)
		}
		fmt.Fprintf(&b, "%s: %s\n", p.Reason, p.Message)
	}
	return b.String()
}

func TestExternalPeers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config func(*Config)
		node   *cluster.Node
		want   string
	}{
		{"flags", func(c *Config) {
			c.Routers = []Router{
				{Addr: netip.MustParseAddr("192.0.2.1"), ASN: 65100, Port: 1790, Password: "hunter2"},
				{Addr: netip.MustParseAddr("2001:db8::1"), ASN: 64512},
			}
			c.HoldTime, c.MultihopTTL, c.MaxPrefixes, c.BFD = 30*time.Second, 2, 5000, bgp.BFD{Enabled: true, Multiplier: 5}
		}, annotated(), `
192.0.2.1 as 65100 port 1790 password 7 bytes hold 30s ttl 2 most 5000 bfd {true 0 5 0s 0s}
2001:db8::1 as 64512 hold 30s ttl 2 most 5000 bfd {true 0 5 0s 0s}
`},
		{"the consolidated annotation", func(c *Config) { c.HoldTime = 90 * time.Second }, annotated("peers", `
- remoteip: 192.0.2.1
  remoteasn: 65100
  localip: 192.168.1.1
  port: 1790
  password: `+secret+`
  holdtime: 9s
  maxprefixes: 100
  bfd: {enabled: true, port: 3785, detection_multiplier: 4, required_min_rx_interval: 300, desired_min_tx_interval: 200}
- remoteip: "2001:db8::1"
  remoteasn: 4200000001
  multihopttl: 3
`), `
192.0.2.1 as 65100 port 1790 from 192.168.1.1 password 7 bytes hold 9s most 100 bfd {true 3785 4 200ms 300ms}
2001:db8::1 as 4200000001 hold 1m30s ttl 3
`},
		{"the older lists", nil, annotated("peer.ips", "192.0.2.1, 192.0.2.2", "peer.asns", "65100,65101",
			"peer.ports", "179,", "peer.passwords", secret+",", "peer.localips", ",192.168.1.1"), `
192.0.2.1 as 65100 port 179 password 7 bytes
192.0.2.2 as 65101 from 192.168.1.1
`},
		{"each wrong peer is left out, and the others live", nil, annotated("peers", `
- {remoteip: 192.0.2.1, remoteasn: 65100}
- {remoteip: 192.0.2.300, remoteasn: 65100}
- {remoteip: 192.0.2.2}
- {remoteip: 192.0.2.3, remoteasn: 65535}
- {remoteip: 192.0.2.3, remoteasn: 4294967296}
- {remoteip: 192.0.2.4, remoteasn: 65100, password: hunter2}
- {remoteip: 192.0.2.5, remoteasn: 65100, password: 1234567}
- {remoteip: 192.0.2.6, remoteasn: 65100, port: 70000}
- {remoteip: 192.0.2.6, remoteasn: 65100, port: 0}
- {remoteip: 192.0.2.7, remoteasn: 65100, holdtime: 1s}
- {remoteip: 192.0.2.8, remoteasn: 65100, localip: "2001:db8::1"}
- {remoteip: 192.0.2.9, remotasn: 65100}
- {remoteip: 192.0.2.1, remoteasn: 65101}
- 192.0.2.1
- null
- {remoteip: 192.168.1.1, remoteasn: 65100}
- {remoteip: 192.0.2.10, remoteasn: 65100}
- {remoteip: 192.0.2.11, remoteasn: 65100, multihopttl: 2, bfd: {enabled: true}}
- {remoteip: 192.0.2.12, remoteasn: 65100, bfd: {enabled: true, required_min_rx_interval: 4294968}}
`), `
192.0.2.1 as 65100
192.0.2.10 as 65100
BadAnnotation: annotation kube-router.io/peers: peer 5: remoteasn is not what it must be: a number of 0 to 4294967295; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 7: password is not what it must be: text, in quotes where it looks like a number; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 8: port is not what it must be: a number of 0 to 65535; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 12: unknown field "remotasn"; allowed are remoteip, remoteasn, localip, password, port, holdtime, multihopttl, maxprefixes and bfd; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 14: is not a map; write 'remoteip: 192.0.2.1' and so on; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 15: is not a map; write 'remoteip: 192.0.2.1' and so on; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 2: remoteip "192.0.2.300" is not the IP address of a router; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 3: remoteasn is missing; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 4: "65535" is not an AS number; allowed are 1 to 4294967294 but 23456 and 65535; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 6: the password is not base64; 'printf %s PASSWORD | base64' writes it; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 9: port 0 is not a port; allowed are 1 to 65535; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 10: "1s" is not a hold time; allowed are whole seconds, 3s to 65535s; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 11: localip 2001:db8::1 and remoteip 192.0.2.8 are of different address families; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 13: 192.0.2.1 is there already; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 18: bfd is for peers on a subnet of the node (RFC 5881), and multihopttl is 2; leave one of the two out; it is left out
BadAnnotation: annotation kube-router.io/peers: peer 19: an interval of bfd is too long; allowed are 0 to 4294967 milliseconds; it is left out
BadAnnotation: the annotated peer 192.168.1.1 is left out: it is node n1
`},
		{"not YAML", nil, annotated("peers", "- remoteip: 1\n  password: \"hunter2\n"), `
BadAnnotation: annotation kube-router.io/peers: is not YAML (line 3); no peer of it is used
`},
		{"not a list", nil, annotated("peers", "remoteip: 192.0.2.1"), `
BadAnnotation: annotation kube-router.io/peers: is not a list; write '- remoteip: 192.0.2.1' and so on; no peer of it is used
`},
		{"lists of different length", nil, annotated("peer.ips", "192.0.2.1,192.0.2.2", "peer.asns", "65100"), `
BadAnnotation: annotation kube-router.io/peer.asns: has 1 entries, and kube-router.io/peer.ips has 2; no peer of them is used
`},
		{"lists with a wrong entry", nil, annotated("peer.ips", "192.0.2.1,x,192.0.2.3,192.0.2.4", "peer.asns", "65100,65100,0,65100", "peer.ports", ",,,99999"), `
192.0.2.1 as 65100
BadAnnotation: annotation kube-router.io/peer.asns: entry 3: "0" is not an AS number; allowed are 1 to 4294967294 but 23456 and 65535; that peer is left out
BadAnnotation: annotation kube-router.io/peer.ports: entry 4: "99999" is not a port; allowed are 1 to 65535; that peer is left out
BadAnnotation: annotation kube-router.io/peer.ips: peer 2: remoteip "x" is not the IP address of a router; it is left out
`},
		{"both forms", nil, annotated("peers", "[]", "peer.ips", "192.0.2.1"), `
BadAnnotation: annotation kube-router.io/peer.ips: is not looked at: kube-router.io/peers is there, and says it all
`},
		{"a peer of the flags and of the annotation is that of the flags", func(c *Config) { c.Routers = routers(65100, "192.0.2.1") },
			annotated("peers", "- {remoteip: 192.0.2.1, remoteasn: 65200}\n- {remoteip: 192.0.2.2, remoteasn: 65200}"), `
192.0.2.1 as 65100
192.0.2.2 as 65200
BadAnnotation: the annotated peer 192.0.2.1 is left out: it is entry 1 of --peer-router-ips
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(strings.TrimSpace(tc.want), strings.TrimSpace(external(t, config(tc.config), tc.node))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// own is what a node is by itself, as text.
func ownOf(t *testing.T, c Config, n *cluster.Node) string {
	t.Helper()
	host := []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("172.16.0.1"), netip.MustParseAddr("2001:db8::1")}
	own, problems, err := ReadOwn(c, n, host)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "as %d id %s listen %v\n", own.ASN, own.RouterID, own.Listen)
	if own.ClusterID.IsValid() {
		fmt.Fprintf(&b, "cluster %s deferral %s\n", own.ClusterID, own.DeferralTime)
	}
	p := own.Policy
	if len(p.Reject)+len(p.Communities) > 0 {
		fmt.Fprintf(&b, "reject %v communities %x\n", p.Reject, p.Communities)
	}
	if p.MED != nil {
		fmt.Fprintf(&b, "med %d\n", *p.MED)
	}
	if p.PrependCount > 0 {
		fmt.Fprintf(&b, "prepend %d times %d\n", p.PrependCount, p.PrependASN)
	}
	for _, p := range problems {
		fmt.Fprintf(&b, "%s: %s\n", p.Reason, p.Message)
	}
	return b.String()
}

func TestOwnAnnotations(t *testing.T) {
	dual := func(c *Config) { c.Families = []inet.Family{inet.IPv4, inet.IPv6} }
	six := annotated()
	six.InternalIPs = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	for _, tc := range []struct {
		name   string
		config func(*Config)
		node   *cluster.Node
		want   string
	}{
		{"nothing", nil, annotated(), "as 64512 id 192.168.1.1 listen [192.168.1.1]"},
		{"a reflector", func(c *Config) { c.DeferralTime = 30 * time.Second }, annotated("node.bgp.routereflector.cluster-id", "1.0.0.1"), `
as 64512 id 192.168.1.1 listen [192.168.1.1]
cluster 192.168.1.1 deferral 30s
`},
		{"an AS number and a router id", func(c *Config) { c.RouterID = netip.MustParseAddr("9.9.9.9") }, annotated("node.asn", " 65001 "),
			"as 65001 id 9.9.9.9 listen [192.168.1.1]"},
		{"IPv6 without a router id", dual, six, `node n1 has no IPv4 address to be its router ID: set --router-id to one, or to "generate"`},
		{"IPv6 with a generated one", func(c *Config) { dual(c); c.GenerateRouterID = true }, six, "as 64512 id 110.91.4.244 listen [2001:db8::1]"},
		{"addresses to listen on", dual, annotated("bgp-local-addresses", "172.16.0.1,10.9.9.9, 2001:db8::1,x"), `
as 64512 id 192.168.1.1 listen [192.168.1.1 172.16.0.1 2001:db8::1]
BadAnnotation: annotation kube-router.io/bgp-local-addresses: entry 2: no link of this host has the address 10.9.9.9; it is left out
BadAnnotation: annotation kube-router.io/bgp-local-addresses: entry 4, "x", is not an IP address; it is left out
`},
		{"addresses to listen on, without nodes as peers", func(c *Config) { c.Between = false }, annotated("bgp-local-addresses", "172.16.0.1"),
			"as 64512 id 192.168.1.1 listen [172.16.0.1]"},
		{"none of the addresses is one", func(c *Config) { c.Between = false }, annotated("bgp-local-addresses", "x"), `
as 64512 id 192.168.1.1 listen [192.168.1.1]
BadAnnotation: annotation kube-router.io/bgp-local-addresses: entry 1, "x", is not an IP address; it is left out
`},
		{"a policy", func(c *Config) { c.Reject = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")} },
			annotated("node.bgp.communities", "65000:100,no-export,4259840100, 1:2:3,", "node.bgp.customimportreject", "10.9.0.1/16, 2001:db8::/32,10.9.0.0/16,banana",
				"path-prepend.as", "65001", "path-prepend.repeat-n", "3", "node.bgp.med", "50"), `
as 64512 id 192.168.1.1 listen [192.168.1.1]
reject [10.9.0.0/16 203.0.113.0/24 2001:db8::/32] communities [fde80064 ffffff01]
med 50
prepend 3 times 65001
BadAnnotation: annotation kube-router.io/node.bgp.customimportreject: entry 4, "banana", is not a CIDR; it is left out
BadAnnotation: annotation kube-router.io/node.bgp.communities: entry 4: "1:2:3" is not a community; allowed are 65000:100, a number, and names such as no-export; it is left out
BadAnnotation: annotation kube-router.io/node.bgp.communities: entry 5: "" is not a community; allowed are 65000:100, a number, and names such as no-export; it is left out
`},
		{"half a prepend and a metric that is none", nil, annotated("path-prepend.as", "65001", "node.bgp.med", "-1"), `
as 64512 id 192.168.1.1 listen [192.168.1.1]
BadAnnotation: annotation kube-router.io/node.bgp.med: "-1" is not a metric; allowed are 0 to 4294967295; none is told
BadAnnotation: annotation kube-router.io/path-prepend.as: is of no use without kube-router.io/path-prepend.repeat-n; nothing is prepended
`},
		{"the other half, and a count that is none", nil, annotated("path-prepend.as", "65001", "path-prepend.repeat-n", "256"), `
as 64512 id 192.168.1.1 listen [192.168.1.1]
BadAnnotation: annotation kube-router.io/path-prepend.repeat-n: "256" is not a count; allowed are 0 to 255; nothing is prepended
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(strings.TrimSpace(tc.want), strings.TrimSpace(ownOf(t, config(tc.config), tc.node))); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// FuzzAnnotations: whatever is written, nothing panics and no password shows.
func FuzzAnnotations(f *testing.F) {
	for _, s := range []string{"- {remoteip: 1.1.1.1, remoteasn: 1, password: x}", "[[", "&a [*a]", "1:2,,", "\xff", "- remoteip: [1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := annotated()
		for _, name := range []string{"peers", "node.asn", "rr.server", "rr.client", "node.bgp.communities", "node.bgp.customimportreject", "bgp-local-addresses", "node.bgp.med", "path-prepend.as", "path-prepend.repeat-n"} {
			n.Annotations[prefix+name] = s
		}
		external(t, config(nil), n)
		delete(n.Annotations, peersAnnotation)
		for _, name := range []string{peerIPs, peerASNs, peerPorts, peerLocals, peerPasswords} {
			n.Annotations[name] = s
		}
		external(t, config(nil), n)
	})
}
