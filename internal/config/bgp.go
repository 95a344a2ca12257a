package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/peering"
)

// BGP is the configuration of the BGP speaker.
type BGP struct {
	// ASN is a private AS number (RFC 6996), that of nodes without one of their
	// own.
	ASN uint32
	// NodePeers says that nodes speak with each other at all, and NodesFullMesh
	// that every one does with every other. NodePassword is that of these
	// sessions, or empty.
	NodePeers, NodesFullMesh bool
	NodePassword             bgp.Secret
	// Port is both listened on and dialled on other nodes.
	Port uint16
	// RouterID is the zero Addr where it is the node's IPv4 address.
	RouterID netip.Addr
	// GenerateRouterID asks for a router ID hashed from the node's address,
	// which a node without IPv4 needs.
	GenerateRouterID    bool
	GracefulRestart     bool
	GracefulRestartTime time.Duration
	// DeferralTime is how long a reflector waits for the routes of its peers
	// after a restart.
	DeferralTime time.Duration
	// AdminAddress is "host:port" of GoBGP's gRPC API, or empty for none.
	AdminAddress string

	// Routers are the peers that the flags name.
	Routers []peering.Router
	// HoldTime, MultihopTTL, MaxPrefixes and NextHopSelf are for peers outside
	// of the cluster, and BFD is for those of Routers.
	HoldTime    time.Duration
	MultihopTTL uint8
	MaxPrefixes uint32
	NextHopSelf bool
	BFD         bgp.BFD

	Advertise Advertise
}

// Advertise is what peers outside of the cluster are told.
type Advertise struct {
	PodCIDRs bool
	// ClusterIPs, ExternalIPs and LoadBalancerIPs are for Services without an
	// annotation.
	ClusterIPs, ExternalIPs, LoadBalancerIPs bool
	// Ranges are told in place of the addresses in them.
	Ranges bool
}

// bgpFlags are those that do not go into the Config as they are.
type bgpFlags struct {
	ips                                  []netip.Addr
	asns                                 []uint32
	ports                                []uint16
	passwords                            []string
	passwordsFile, nodePasswordFile      string
	bfd                                  bool
	bfdPort, bfdMultiplier, bfdTx, bfdRx uint32
}

func (f *flags) defineRouting(c *Config) {
	f.section("Routing")
	add(f, &c.BGP.ASN, "cluster-asn", 64512, privateASN(),
		"AS number of the cluster's nodes: a private one (RFC 6996), 64512-65534 or 4200000000-4294967294. The annotation kube-router.io/node.asn is for one node.")
	addBool(f, &c.BGP.NodesFullMesh, "nodes-full-mesh", true,
		"Peer with every other node. Without it nodes peer with the route reflectors among them: those with the annotation "+
			"kube-router.io/node.bgp.routereflector.cluster-id. For clusters of more than 50 nodes.")
	addBool(f, &c.BGP.NodePeers, "enable-ibgp", true,
		"Peer with other nodes at all.")
	add(f, &f.bgp.nodePasswordFile, "nodes-password-file", "", text("file"),
		"File with the password of the sessions between nodes (TCP MD5, RFC 2385), in base64. It must be the same on all nodes.")
	add(f, &c.BGP.Port, "bgp-port", 179, port(),
		"Port that the BGP speaker listens on, on this node and on all others.")
	add(f, &f.routerID, "router-id", routerID{}, bgpIdentifier(),
		"BGP identifier, an IPv4 address, or 'generate' for one hashed from the node's address. Empty: the node's IPv4 address.")
	addBool(f, &c.BGP.GracefulRestart, "bgp-graceful-restart", false,
		"Ask peers to keep this node's routes while it restarts (RFC 4724).")
	add(f, &c.BGP.GracefulRestartTime, "bgp-graceful-restart-time", 90*time.Second, restartTime(),
		"How long peers keep them: at most 4095s.")
	add(f, &c.BGP.DeferralTime, "bgp-graceful-restart-deferral-time", 30*time.Second, seconds(1, 65535, "a deferral time"),
		"How long a route reflector waits after a restart, at most, for the routes of its peers before it tells any. A fresh start does not wait for it.")
	add(f, &f.adminPort, "gobgp-admin-port", 50051, portOrOff(),
		"Port of GoBGP's gRPC API, for the gobgp command. 0: none.")
	add(f, &f.adminAddr, "gobgp-admin-address", "127.0.0.1", oneListenIP(),
		"IP address of that API. Whoever reaches it can change the routes of this node.")
	add(f, &f.ignoredSourceCheck, "disable-source-dest-check", true, onOff(),
		"Accepted, without effect: it is for EC2.").NoOptDefVal = "true"
}

func (f *flags) defineRouters(c *Config) {
	f.section("BGP peers of all nodes")
	addList(f, &f.bgp.ips, "peer-router-ips", nil, listOf("address", parsePeerAddr),
		"Routers that every node peers with, or nodes that are route reflectors. The annotation kube-router.io/peers is for peers of one node.")
	addList(f, &f.bgp.asns, "peer-router-asns", nil, listOf("asn", peering.ParseASN),
		"Their AS numbers: one for all, or one for each. Nodes need none.")
	addList(f, &f.bgp.ports, "peer-router-ports", nil, listOf("port", func(s string) (uint16, error) { return parsePort(s, 1) }),
		"Their ports: one for all, or one for each. Without it 179; that of nodes is always --bgp-port.")
	addList(f, &f.bgp.passwords, "peer-router-passwords", nil, listOf("base64", func(s string) (string, error) { return s, nil }),
		"Their passwords (TCP MD5, RFC 2385) in base64: one for all, or one for each; an empty one is none. They can be seen in the list of processes: --peer-router-passwords-file is better.")
	add(f, &f.bgp.passwordsFile, "peer-router-passwords-file", "", text("file"),
		"File with the same list, on one line.")
	add(f, &c.BGP.MultihopTTL, "peer-router-multihop-ttl", 0, number[uint8](0, 255, "a number of hops"),
		"How many hops away peers of other AS numbers may be. Below 2: they are on a subnet of the node. Also for those of annotations.")
	add(f, &c.BGP.MaxPrefixes, "peer-router-max-prefixes", 0, number[uint32](0, 4294967295, "a number of prefixes"),
		"How many prefixes of an address family a peer outside of the cluster may send; one more ends the session. 0: 20000.")
	add(f, &c.BGP.HoldTime, "bgp-holdtime", bgp.HoldTime, seconds(3, 65535, "a hold time"),
		"After how long without a message from such a peer its session ends.")
	addBool(f, &f.bgp.bfd, "enable-bfd", false,
		"Watch these peers by BFD (RFC 5880), which notices within seconds that one is gone.")
	add(f, &f.bgp.bfdPort, "bfd-port", 3784, number[uint32](1, 65535, "a port"), "Their port.")
	add(f, &f.bgp.bfdMultiplier, "bfd-detection-multiplier", 3, number[uint32](1, 255, "a multiplier"),
		"How many packets in a row are missing when a peer counts as gone.")
	add(f, &f.bgp.bfdTx, "bfd-desired-min-tx-interval", 1000, number[uint32](1, 4294967, "an interval"), "Milliseconds between packets to the peer, at least.")
	add(f, &f.bgp.bfdRx, "bfd-required-min-rx-interval", 1000, number[uint32](1, 4294967, "an interval"), "The same from the peer.")
}

func (f *flags) defineAdvertisements(c *Config) {
	f.section("What peers outside of the cluster are told")
	addBool(f, &c.BGP.Advertise.PodCIDRs, "advertise-pod-cidr", true,
		"This node's pods.")
	const service = " A Service's annotation kube-router.io/service.advertise.%s goes first."
	addBool(f, &c.BGP.Advertise.ClusterIPs, "advertise-cluster-ip", false, "Cluster IPs of Services."+sprintf(service, "clusterip"))
	addBool(f, &c.BGP.Advertise.ExternalIPs, "advertise-external-ip", false, "External IPs of Services."+sprintf(service, "externalip"))
	addBool(f, &c.BGP.Advertise.LoadBalancerIPs, "advertise-loadbalancer-ip", false, "Load balancer IPs of Services."+sprintf(service, "loadbalancerip"))
	addBool(f, &c.BGP.Advertise.Ranges, "advertise-service-ranges", false,
		"In place of single addresses of Services the range that they are in: --service-cluster-ip-range, --service-external-ip-range or --loadbalancer-ip-range. "+
			"Cluster IPs are told one by one where --service-cluster-ip-range is not set. Addresses of Services with traffic policy Local are told in any case.")
	addBool(f, &c.BGP.NextHopSelf, "override-nexthop", false,
		"Give these peers the address of their own session for next hop, in place of the node's.")
}

// setBGP resolves what the flags of BGP say together.
func (f *flags) setBGP(c *Config) error {
	c.BGP.AdminAddress = listenAddress(f.adminAddr, f.adminPort)
	c.BGP.RouterID, c.BGP.GenerateRouterID = f.routerID.addr, f.routerID.generate
	if c.BGP.DeferralTime > c.BGP.GracefulRestartTime {
		if f.set.Changed("bgp-graceful-restart-deferral-time") {
			c.Warnings = append(c.Warnings, fmt.Sprintf("--bgp-graceful-restart-deferral-time=%s: --bgp-graceful-restart-time=%[2]s is taken: "+
				"peers have dropped the routes after that", formatDuration(c.BGP.DeferralTime), formatDuration(c.BGP.GracefulRestartTime)))
		}
		c.BGP.DeferralTime = c.BGP.GracefulRestartTime
	}
	if !netip.MustParseAddr(f.adminAddr).IsLoopback() && c.BGP.AdminAddress != "" {
		c.Warnings = append(c.Warnings, "--gobgp-admin-address="+f.adminAddr+": whoever reaches it can change the routes of this node")
	}
	if tell := c.BGP.Advertise; tell.Ranges && tell.ClusterIPs && !f.set.Changed("service-cluster-ip-range") {
		c.Warnings = append(c.Warnings, "--advertise-service-ranges: cluster IPs are told one by one, because nobody said which range they are of: set --service-cluster-ip-range")
	}
	if f.bgp.bfd {
		if c.BGP.MultihopTTL > 1 {
			return fmt.Errorf("--enable-bfd=true --peer-router-multihop-ttl=%d: BFD is for peers on a subnet of the node (RFC 5881); leave one of the two out", c.BGP.MultihopTTL)
		}
		c.BGP.BFD = bgp.BFD{
			Enabled: true, Port: uint16(f.bgp.bfdPort), Multiplier: f.bgp.bfdMultiplier,
			MinTx: time.Duration(f.bgp.bfdTx) * time.Millisecond, MinRx: time.Duration(f.bgp.bfdRx) * time.Millisecond,
		}
	}
	if err := f.setNodePassword(c); err != nil {
		return err
	}
	return f.setRouters(c)
}

func (f *flags) setNodePassword(c *Config) error {
	file := f.bgp.nodePasswordFile
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--nodes-password-file=%s: %w", printable(file), withoutPath(err))
	}
	c.BGP.NodePassword, err = peering.ParsePassword(strings.TrimSpace(string(text)))
	if err == nil && c.BGP.NodePassword == "" {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return fmt.Errorf("--nodes-password-file=%s: %w", printable(file), err)
	}
	return nil
}

// setRouters joins the lists of --peer-router-ips and its companions. A list of
// one entry is for all routers.
func (f *flags) setRouters(c *Config) error {
	n := len(f.bgp.ips)
	passwords, source, err := f.routerPasswords()
	if err != nil {
		return err
	}
	for _, list := range []struct {
		flag string
		has  int
	}{{"peer-router-asns", len(f.bgp.asns)}, {"peer-router-ports", len(f.bgp.ports)}, {source, len(passwords)}} {
		switch {
		case list.has > 0 && n == 0:
			return fmt.Errorf("--%s: there is no --peer-router-ips that it could be for; set that, or leave this out", list.flag)
		case list.has > 1 && list.has != n:
			return fmt.Errorf("--%s: it has %d entries, and --peer-router-ips has %d; allowed are one for all, and one for each", list.flag, list.has, n)
		}
	}
	for i, addr := range f.bgp.ips {
		if slices.Contains(f.bgp.ips[:i], addr) {
			return fmt.Errorf("--peer-router-ips: %s is there twice", addr)
		}
		c.BGP.Routers = append(c.BGP.Routers, peering.Router{
			Addr: addr, ASN: entry(f.bgp.asns, i), Port: entry(f.bgp.ports, i), Password: entry(passwords, i),
		})
	}
	return nil
}

// entry is the i-th of a list, or the one that is for all, or the zero value.
func entry[T any](list []T, i int) (one T) {
	switch len(list) {
	case 0:
		return one
	case 1:
		return list[0]
	}
	return list[i]
}

// routerPasswords are those of the flag, else those of the file, and the flag
// that they come from. No error of it repeats one.
func (f *flags) routerPasswords() (list []bgp.Secret, source string, err error) {
	source, words := "peer-router-passwords", f.bgp.passwords
	if len(words) == 0 && f.bgp.passwordsFile != "" {
		source = "peer-router-passwords-file"
		content, err := os.ReadFile(f.bgp.passwordsFile)
		if err != nil {
			return nil, source, fmt.Errorf("--%s=%s: %w", source, printable(f.bgp.passwordsFile), withoutPath(err))
		}
		if text := strings.TrimSpace(string(content)); text != "" {
			words = strings.Split(text, ",")
		}
	}
	for i, word := range words {
		password, err := peering.ParsePassword(strings.TrimSpace(word))
		if err != nil {
			return nil, source, fmt.Errorf("--%s: entry %d: %w", source, i+1, err)
		}
		list = append(list, password)
	}
	return list, source, nil
}

// withoutPath is an error of a file without its name, which the flag has said.
func withoutPath(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func parsePeerAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Addr{}, errors.New("not the IP address of a router; allowed is one such as 192.0.2.1")
	}
	return addr.Unmap(), nil
}

// number reads a number within bounds.
func number[T uint8 | uint32](least, most uint64, what string) kind[T] {
	return kind[T]{"number", func(s string) (T, error) {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("not %s; allowed are %d to %d", what, least, most)
		}
		return T(n), nil
	}, func(n T) string { return strconv.FormatUint(uint64(n), 10) }}
}

// seconds reads a duration that BGP counts in whole seconds.
func seconds(least, most int, what string) kind[time.Duration] {
	return kind[time.Duration]{"duration", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < time.Duration(least)*time.Second || d > time.Duration(most)*time.Second || d%time.Second != 0 {
			return 0, fmt.Errorf("not %s; allowed are whole seconds, %ds to %ds", what, least, most)
		}
		return d, nil
	}, formatDuration}
}

// oneListenIP reads an address to listen on that must be there.
func oneListenIP() kind[string] {
	k := listenIP()
	return kind[string]{k.name, func(s string) (string, error) {
		if s == "" {
			return "", errors.New("not an IP address; allowed is one such as 127.0.0.1 or ::1")
		}
		return k.parse(s)
	}, k.format}
}
