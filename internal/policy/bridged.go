package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/link"
)

// Policies judge Pods by their addresses. Those on one bridge can do without:
// each has an IPv6 link-local address that no API tells of, also in a cluster
// of IPv4 alone (RFC 4291, 2.5.6), and what is sent to a multicast or broadcast
// address reaches them all. Neither needs a privilege. So while a Pod of this
// node is isolated, or may turn out to be, its Pods have each other's own
// addresses only.
//
// A Pod's link-local address reaches the node, too, past egress policies.

// bridgeChain drops what Pods of a bridge send past their own addresses.
const bridgeChain = podPrefix + "BRIDGE"

const linkLocal = "fe80::/10" // RFC 4291, 2.5.6

// strays makes the rules for packets that go past the Pods' own addresses, in
// FORWARD and in INPUT, and the chain that they lead to. What goes out of the
// bridge that it came in by is switched: nobody routes such packets.
//
// Established connections go on, but for those that policies cut; the node may
// always begin one.
func strays(c Config, f inet.Family, bridges []string) (forward, input []string, chains map[string][]string) {
	if len(bridges) == 0 {
		return nil, nil, nil
	}
	const begins = "-m conntrack ! --ctstate RELATED,ESTABLISHED "
	between := begins
	if c.CutFlows && f == inet.IPv6 {
		between = ""
	}
	for _, bridge := range bridges {
		for _, stray := range strayMatches[f] {
			forward = append(forward, strings.NewReplacer("BRIDGE", bridge, "BEGINS ", between).Replace(stray)+"-j "+bridgeChain)
		}
		if f == inet.IPv6 {
			input = append(input, fmt.Sprintf("-s %s -i %s "+begins+"-j %s", linkLocal, bridge, bridgeChain))
		}
	}
	why := comment(strayText)
	rules := append(discovery(f), why+" -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100", why+" -j DROP")
	return forward, input, map[string][]string{bridgeChain: rules}
}

// strayMatches are what goes from a bridge to itself past the Pods' addresses. To
// compare a type of address is a look into the routes, and comes last. What goes
// to many is no connection (and has none that could be cut).
var strayMatches = map[inet.Family][]string{
	inet.IPv4: {"-d 224.0.0.0/4 -i BRIDGE -o BRIDGE BEGINS ", "-i BRIDGE -o BRIDGE BEGINS -m addrtype --dst-type BROADCAST "},
	inet.IPv6: {"-s " + linkLocal + " -i BRIDGE -o BRIDGE BEGINS ", "-d " + linkLocal + " -i BRIDGE -o BRIDGE BEGINS ", "-d ff00::/8 -i BRIDGE -o BRIDGE BEGINS "},
}

// strayText is in the comment of the rules that log and drop strays.
const strayText = "not to a pod address"

// discovery lets pass what the bridge and IPv6 themselves need: listeners'
// reports (RFC 2710, RFC 3810), neighbours' questions and answers, and the
// question after a router. Routers' advertisements are not among it: Pods are no
// routers.
func discovery(f inet.Family) []string {
	if f != inet.IPv6 {
		return nil
	}
	rules := neighbours(f)
	for _, kind := range []int{130, 131, 132, 133, 143} {
		rules = append(rules, fmt.Sprintf("-p ipv6-icmp -m icmp6 --icmpv6-type %d -j RETURN", kind))
	}
	return rules
}

// strayTop makes the top chains of a family that the cluster does not have.
func strayTop(c Config, f inet.Family, bridges []string) map[string][]string {
	forward, input, chains := strays(c, f, bridges)
	if chains != nil {
		chains[forwardChain], chains[inputChain] = forward, input
	}
	return chains
}

// guarded says whether a Pod of this node is isolated, or a new one may be. The
// caller holds the lock.
func (c *Controller) guarded() bool {
	if c.config.NewPods == Closed || c.config.NewPods == Selected && c.state.awaited() {
		return true
	}
	for _, p := range c.plans {
		if len(p.groups) > 0 {
			return true
		}
	}
	return false
}

// findBridges are the bridges of this node's Pods.
func (c *Controller) findBridges() ([]string, error) {
	if err := c.lookAtBridges(); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, name := range c.config.Bridges {
		names[name] = true
	}
	for _, p := range c.plans {
		for _, place := range p.places {
			if b := bridgeOf(c.bridges, place.addr); b != nil {
				names[b.Name] = true
			}
		}
	}
	for _, b := range c.bridges {
		if names[b.Name] && len(b.Others) > 0 {
			delete(names, b.Name)
			c.warnOfShared(b)
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// warnOfShared says once that a bridge is left alone, as it is not the Pods'
// alone: others' routers and hosts are behind it.
func (c *Controller) warnOfShared(b link.Bridge) {
	if !c.shared[b.Name] {
		c.shared[b.Name] = true
		c.log.Warn("policy: a bridge has ports that are no pod's; link-local addresses, multicast and broadcast on it are left open",
			"bridge", b.Name, "ports", b.Others)
	}
}

// lookAtBridges reads the node's bridges where those that are known do not have
// all Pods.
func (c *Controller) lookAtBridges() error {
	for _, p := range c.plans {
		for _, place := range p.places {
			if bridgeOf(c.bridges, place.addr) != nil {
				continue
			}
			bridges, err := c.look()
			if err != nil {
				return fmt.Errorf("looking for the bridges of pods: %w", err)
			}
			c.bridges = bridges
			return nil
		}
	}
	return nil
}

// bridgeOf is the bridge in whose network an address is, or nil.
func bridgeOf(bridges []link.Bridge, addr netip.Addr) *link.Bridge {
	for i, b := range bridges {
		if slices.ContainsFunc(b.Networks, func(n netip.Prefix) bool { return n.Contains(addr) }) {
			return &bridges[i]
		}
	}
	return nil
}
