// Package network makes the links between the host and its guests.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
)

// Network is one lab's bridge and subnet: 192.168.ID.0/24, fd00:c0a8:ID::/64,
// or both.
type Network struct {
	ID int `json:"id"`
	// Subnets is 2 where every other node is in a subnet of its own, on a bridge
	// of its own, with a router between.
	Subnets int `json:"subnets,omitempty"`
	// Families are those in which host and nodes have addresses.
	Families Families `json:"families,omitempty"`
}

// Families are the address families of a network.
type Families string

// The families that a network can have. The first one of a node's addresses is
// that of IPv4 where it has both. The zero value is IPv4.
const (
	IPv4      Families = "ipv4"
	IPv6      Families = "ipv6"
	DualStack Families = "dual"
)

// Pick is what there is of two: one of IPv4, one of IPv6.
func (f Families) Pick(four, six string) []string {
	switch f {
	case DualStack:
		return []string{four, six}
	case IPv6:
		return []string{six}
	}
	return []string{four}
}

const firstID, lastID = 66, 99

// Pick returns a network that this machine does not use yet, so that two labs
// can run side by side.
func Pick(subnets int) (Network, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return Network{}, err
	}
	var used []netip.Prefix
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			used = append(used, p)
		}
	}
	return pick(used, subnets)
}

func pick(used []netip.Prefix, subnets int) (Network, error) {
	for id := firstID; id <= lastID; id++ {
		n := Network{ID: id, Subnets: subnets}
		free := true
		for _, p := range used {
			free = free && !p.Overlaps(n.subnet()) && (subnets < 2 || !p.Overlaps(n.farSubnet()))
		}
		if free {
			return n, nil
		}
	}
	return Network{}, fmt.Errorf("all of 192.168.%d.0/24 to 192.168.%d.0/24 are in use on this machine: free one (ip address)", firstID, lastID)
}

func (n Network) subnet() netip.Prefix {
	return netip.PrefixFrom(n.address(0), 24)
}

func (n Network) address(host byte) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, byte(n.ID), host})
}

// Host is the first address of the host, and of the control plane on it.
func (n Network) Host() netip.Addr { return n.HostPrefixes()[0].Addr() }

// Node is the first address of a node, counted from 1.
func (n Network) Node(i int) netip.Addr { return n.NodePrefixes(i)[0].Addr() }

func (n Network) address6(host byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 2: 192, 3: 168, 5: byte(n.ID), 15: host})
}

// HostPrefixes are the addresses of the host with the length of their subnets.
func (n Network) HostPrefixes() []netip.Prefix { return n.prefixes(n.address(1), 1) }

// NodePrefixes are the addresses of a node with the length of their subnets.
func (n Network) NodePrefixes(i int) []netip.Prefix {
	host := byte(10 + i)
	if n.far(i) {
		return n.prefixes(n.farAddress(host), host)
	}
	return n.prefixes(n.address(host), host)
}

func (n Network) prefixes(four netip.Addr, host byte) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range n.Families.Pick(four.String()+"/24", n.address6(host).String()+"/64") {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

// Bridge is the name of the host's bridge.
func (n Network) Bridge() string { return fmt.Sprintf("kr-lab%d", n.ID) }

// Tap is the name of the host's end of a node's link.
func (n Network) Tap(i int) string { return fmt.Sprintf("kr-lab%d-%d", n.ID, i) }

// Create makes the bridge and the nodes' links.
func (n Network) Create(nodes int) error {
	script := []string{"link add " + n.Bridge() + " type bridge"}
	for _, p := range n.HostPrefixes() {
		script = append(script, AddressOn(p, n.Bridge()))
	}
	script = append(script, "link set "+n.Bridge()+" up")
	if err := batch(script); err != nil {
		return fmt.Errorf("make the lab's links (needs root): %w", err)
	}
	if n.Subnets > 1 {
		if err := n.createRouter(); err != nil {
			return err
		}
	}
	script = nil
	for i := 1; i <= nodes; i++ {
		script = append(script,
			"tuntap add "+n.Tap(i)+" mode tap",
			"link set "+n.Tap(i)+" master "+n.bridgeOf(i)+" up")
	}
	if err := batch(script); err != nil {
		return fmt.Errorf("make the lab's links (needs root and /dev/net/tun): %w", err)
	}
	return nil
}

// AddressOn is the line for ip that gives a link an address. One of IPv6 is
// used at once: nobody else has it (RFC 4862, section 5.4, waits to find out).
func AddressOn(p netip.Prefix, link string) string {
	line := fmt.Sprintf("address add %s dev %s", p, link)
	if p.Addr().Is6() {
		line += " nodad"
	}
	return line
}

// Route lets the host reach a node's pods: the API server calls webhooks and
// proxies to pods by their own addresses.
func (n Network) Route(pods string, node int) error {
	if n.far(node) {
		way := []string{fmt.Sprintf("route replace %s via %s table 100", pods, n.Node(node))}
		return errors.Join(batchIn(n.Namespace(RouterRole), way), batch([]string{fmt.Sprintf("route replace %s via %s", pods, n.Router())}))
	}
	via := n.Node(node)
	if strings.Contains(pods, ":") {
		via = n.address6(byte(10 + node))
	}
	return batch([]string{fmt.Sprintf("route replace %s via %s", pods, via)})
}

// Delete removes all links and namespaces of this network that exist.
func (n Network) Delete() error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	var script []string
	for _, l := range links {
		if l.Name == n.Bridge() || strings.HasPrefix(l.Name, n.Bridge()+"-") {
			script = append(script, "link delete "+l.Name)
		}
	}
	// Not the other way round: links into a namespace go some time after it.
	if err := batch(script); err != nil {
		return err
	}
	return n.deleteNamespaces()
}

func batch(lines []string) error { return feed(exec.Command("ip", "-batch", "-"), lines) }

func feed(cmd *exec.Cmd, lines []string) error {
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
