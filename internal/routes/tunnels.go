package routes

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/overlay"
)

// host is this node as the overlay sees it.
func (s self) host(links []link.Addr) overlay.Host {
	h := overlay.Host{Name: s.name, PodCIDRs: s.podCIDRs(), MTU: s.mtu}
	for _, ip := range s.ip {
		if ip.IsValid() {
			h.IPs = append(h.IPs, ip)
		}
	}
	h.Near = func(a netip.Addr) bool {
		_, reason := linkTo(a, links)
		return reason == ""
	}
	return h
}

// podMTU is the MTU of the bridge and of the Pods in bytes, or 0 where it is
// left to others.
func (c Config) podMTU(me self) int {
	if !c.AutoMTU {
		return 0
	}
	return c.Overlay.MTU(me.host(nil))
}

// nextHop is the way to a next hop, through a tunnel or by a link of this host,
// or why there is none.
func nextHop(hop netip.Addr, links []link.Addr, tunnels overlay.Plan) (route.NextHop, string) {
	if through, ok := tunnels.Hop(hop); ok {
		return through, ""
	}
	name, reason := linkTo(hop, links)
	return route.NextHop{Via: hop, Link: name}, reason
}

// buildTunnels makes the tunnels to other nodes what they should be. Those that
// are not needed any more go when all routes have been learned anew: until then
// the kernel has routes of a former run that lead there.
func (c *Controller) buildTunnels() error {
	me := c.identity()
	switch {
	case !me.primary.IsValid():
		return errLater
	case c.withoutTunnels:
		return nil
	}
	before, wanted := c.tunnels, overlay.Compile(c.config.Overlay, me.host(c.links), c.present())
	c.tunnels = wanted
	errs := []error{c.ensureTunnels()}
	if len(c.tunnels.Tunnels) > 0 {
		errs = append(errs, c.admitTunnels())
	}
	errs = append(errs, c.leadPods())
	c.markRoutes(before)
	c.mu.Lock()
	swept := c.swept
	c.mu.Unlock()
	if swept {
		errs = append(errs, c.removeTunnels(wanted))
	}
	err := errors.Join(errs...)
	c.withoutTunnels = err == nil && swept && !c.config.Overlay.Enabled
	return err
}

// ensureTunnels leaves those out that cannot be made: nothing is led there.
func (c *Controller) ensureTunnels() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.tunnels.Tunnels)) {
		t := c.tunnels.Tunnels[name]
		changed, err := c.drivers.Links.EnsureTunnel(t)
		if changed {
			c.log.Info("routes: tunnel set up", "link", t.String())
		}
		if err == nil && t.Kind == link.VXLAN {
			_, err = c.drivers.Links.SetTunnelNodes(t, c.tunnels.Nodes[name])
		}
		if err != nil {
			c.tunnels = c.tunnels.Without(name)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// admitTunnels turns the check of source addresses off for what comes out of
// tunnels. A node's own packets to Pods do, while the way back to the node is
// not through the tunnel; with direct server return, those of clients do, too,
// and answers come from a Service's address, which is this node's own as well.
// Since the stricter of all's and a link's counts, and a link without an address
// has only 0 for "no check", the links get what all has now
// (Documentation/networking/ip-sysctl.rst, rp_filter and accept_local).
func (c *Controller) admitTunnels() error {
	if !slices.Contains(c.config.Families, inet.IPv4) {
		return nil
	}
	all, err := c.reverseCheck("all")
	if err != nil {
		return err
	}
	var list []parameter
	if all > 0 {
		names := []string{"default", "lo", Bridge}
		for _, l := range c.links {
			if l.Prefix.Addr().Is4() && !slices.Contains(names, l.Link) {
				names = append(names, l.Link)
			}
		}
		for _, name := range names {
			if own, err := c.reverseCheck(name); err == nil && own < all {
				list = append(list, parameter{reversePath(name), strconv.Itoa(all)})
			}
		}
		list = append(list, parameter{reversePath("all"), "0"})
	}
	for _, name := range slices.Sorted(maps.Keys(c.tunnels.Tunnels)) {
		if c.tunnels.Tunnels[name].Carries(inet.IPv4) {
			list = append(list, parameter{reversePath(name), "0"}, parameter{"net/ipv4/conf/" + name + "/accept_local", "1"})
		}
	}
	return c.setParameters(list)
}

func reversePath(link string) string { return "net/ipv4/conf/" + link + "/rp_filter" }

func (c *Controller) reverseCheck(link string) (int, error) {
	text, err := c.drivers.Sysctl.Get(reversePath(link))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// leadPods leads what Pods send to other nodes through the tunnels.
func (c *Controller) leadPods() error {
	failed := c.detours.Set(c.tunnels.Routes)
	maps.Copy(failed, c.detours.Retain(func(k route.Key) bool { return c.tunnels.Routes[k] != nil }))
	errs := []error{firstOf(failed)}
	rules, err := c.drivers.Routes.Rules()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, rule := range c.tunnels.Rules {
		if !slices.Contains(rules, rule) {
			errs = append(errs, c.drivers.Routes.AddRule(rule))
		}
	}
	for _, rule := range rules {
		if rule.Table == overlay.Table && !slices.Contains(c.tunnels.Rules, rule) {
			errs = append(errs, c.drivers.Routes.DeleteRule(rule))
		}
	}
	return errors.Join(errs...)
}

// firstOf is one error for all routes that failed, the same as long as they do.
func firstOf(failed map[route.Key]error) error {
	var first netip.Prefix
	for key := range failed {
		if !first.IsValid() || comparePrefixes(key.Dst, first) < 0 {
			first = key.Dst
		}
	}
	if !first.IsValid() {
		return nil
	}
	return fmt.Errorf("the ways of Pods to nodes: %d failed, the first: %w", len(failed), failed[route.Key{Table: overlay.Table, Dst: first}])
}

// markRoutes marks the learned routes that lead elsewhere than before.
func (c *Controller) markRoutes(before overlay.Plan) {
	speaker := c.speaking()
	if speaker == nil || c.tunnels.SameWays(before) {
		return
	}
	for prefix, hops := range speaker.Learned() {
		if c.tunnels.Changed(before, hops) {
			c.queue.Mark(key{stepRoute, prefix})
		}
	}
}

func (c *Controller) removeTunnels(wanted overlay.Plan) error {
	deleted, err := c.drivers.Links.DeleteTunnels(func(name string) bool {
		_, keep := wanted.Tunnels[name]
		return keep
	})
	if len(deleted) > 0 {
		c.log.Info("routes: tunnels removed", "links", deleted)
	}
	return err
}

// guardRules let nobody but nodes send packets out of a tunnel's end: they could
// be from anyone to any Pod.
func guardRules(f inet.Family, c Config) []string {
	var wrapped []string
	if c.Overlay.Encap != overlay.IPIP {
		wrapped = append(wrapped, "-p udp -m udp --dport "+strconv.Itoa(int(c.Overlay.Port)))
	}
	if c.Overlay.Encap != overlay.VXLAN { // a tunnel in UDP takes packets without it as well
		if f == inet.IPv4 && slices.Contains(c.Families, inet.IPv4) {
			wrapped = append(wrapped, "-p 4")
		}
		if slices.Contains(c.Families, inet.IPv6) {
			wrapped = append(wrapped, "-p 41")
		}
	}
	var rules []string
	for _, match := range wrapped {
		rules = append(rules, match+` -m set ! --match-set `+setName(nodeIPs, f)+` src -m comment --comment "tunnels are for nodes" -j DROP`)
	}
	return rules
}

// guard adds guardRules to the filter table.
func guard(filter *iptables.Content, f inet.Family, c Config) {
	if !c.Overlay.Enabled {
		return
	}
	filter.Chains[tunnelsChain] = guardRules(f, c)
	filter.Jumps = append(filter.Jumps, iptables.Jump{Chain: "INPUT", Rank: iptables.RankRoutes, Rule: "-j " + tunnelsChain})
}
