package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// farOffset is from the ID of a lab's network to that of its second subnet, so
// that labs side by side have other ones.
const farOffset = lastID - firstID + 1

// Roles of namespaces beside the nodes.
const (
	// RouterRole is what joins the two subnets. It knows no way to Pods, and
	// forwards nothing that they send to nodes.
	RouterRole = "router"
	// PeerRole is a router outside of the cluster with a network of its own.
	PeerRole = "peer"
)

// far says whether a node is in the second subnet: every other one is.
func (n Network) far(node int) bool { return n.Subnets > 1 && node%2 == 0 }

func (n Network) farSubnet() netip.Prefix { return netip.PrefixFrom(n.farAddress(0), 24) }

func (n Network) farAddress(host byte) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, byte(n.ID + farOffset), host})
}

// Router is the router's address in the first subnet; it is the same host in
// the second one.
func (n Network) Router() netip.Addr { return n.address(2) }

// Peer is the address of the router outside of the cluster, and PeerNetwork is
// the one behind it, of which it is the first host.
func (n Network) Peer() netip.Addr { return n.address(3) }

// PeerNetwork is behind Peer.
func (n Network) PeerNetwork() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, byte(n.ID), 0}), 24)
}

// Subnet is that of the first nodes.
func (n Network) Subnet() netip.Prefix { return n.subnet() }

// Ways are a node's routes, in the form of ip route.
func (n Network) Ways(node int) []string {
	switch {
	case n.far(node):
		return []string{"default via " + n.farAddress(2).String()}
	case n.Subnets > 1:
		return []string{"default via " + n.Host().String(), fmt.Sprintf("%s via %s", n.farSubnet(), n.Router())}
	}
	var ways []string
	for _, p := range n.HostPrefixes() {
		ways = append(ways, "default via "+p.Addr().String())
	}
	return ways
}

// Namespace is the name of the network namespace with a role.
func (n Network) Namespace(role string) string { return n.Bridge() + "-" + role }

func (n Network) farBridge() string { return n.Bridge() + "-far" }

// bridgeOf is the host's bridge with a node's link.
func (n Network) bridgeOf(node int) string {
	if n.far(node) {
		return n.farBridge()
	}
	return n.Bridge()
}

// createRouter makes the second subnet and the router between. The host reaches
// it, and the Pods there, through the router, which knows the way for the host
// alone.
func (n Network) createRouter() error {
	name, host := n.Namespace(RouterRole), n.Host()
	inside := []string{
		"link set lo up",
		fmt.Sprintf("address add %s/24 dev near", n.Router()), "link set near up",
		fmt.Sprintf("address add %s/24 dev far", n.farAddress(2)), "link set far up",
		fmt.Sprintf("rule add priority 100 from %s lookup 100", host),
		fmt.Sprintf("rule add priority 101 to %s lookup main", host),
		"rule add priority 102 from 10.244.0.0/16 prohibit",
	}
	err := errors.Join(
		batch([]string{
			"link add " + n.farBridge() + " type bridge",
			"link set " + n.farBridge() + " up",
			"netns add " + name,
			"link add " + n.Bridge() + "-ra type veth peer name near netns " + name,
			"link add " + n.Bridge() + "-rb type veth peer name far netns " + name,
			"link set " + n.Bridge() + "-ra master " + n.Bridge() + " up",
			"link set " + n.Bridge() + "-rb master " + n.farBridge() + " up",
		}),
		run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"),
		batchIn(name, inside),
		batch([]string{fmt.Sprintf("route replace %s via %s", n.farSubnet(), n.Router())}),
	)
	if err != nil {
		return fmt.Errorf("make the lab's second subnet: %w", err)
	}
	return nil
}

// CreatePeer makes the namespace of the router outside of the cluster.
func (n Network) CreatePeer() error {
	name := n.Namespace(PeerRole)
	inside := []string{
		"link set lo up",
		fmt.Sprintf("address add %s/24 dev eth0", n.Peer()), "link set eth0 up",
		"link add lan0 type bridge",
		fmt.Sprintf("address add %s/24 dev lan0", n.PeerNetwork().Addr().Next()), "link set lan0 up",
	}
	if n.Subnets > 1 {
		inside = append(inside, fmt.Sprintf("route add %s via %s", n.farSubnet(), n.Router()))
	}
	err := errors.Join(
		batch([]string{
			"netns add " + name,
			"link add " + n.Bridge() + "-p type veth peer name eth0 netns " + name,
			"link set " + n.Bridge() + "-p master " + n.Bridge() + " up",
		}),
		run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.ip_forward=1"),
		batchIn(name, inside),
	)
	if err != nil {
		return fmt.Errorf("make the lab's peer: %w", err)
	}
	return nil
}

// deleteNamespaces removes those of this network that exist, with their links.
func (n Network) deleteNamespaces() error {
	entries, err := os.ReadDir("/run/netns")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var script []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), n.Bridge()+"-") {
			script = append(script, "netns delete "+e.Name())
		}
	}
	return batch(script)
}

func batchIn(namespace string, lines []string) error {
	return feed(exec.Command("ip", "-netns", namespace, "-batch", "-"), lines)
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
