package services

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/route"
)

// parameter is a sysctl and the value that it must have.
type parameter struct{ name, value string }

// parameters are what the kernel must do for Services
// (Documentation/networking/ipvs-sysctl.rst, ip-sysctl.rst).
func parameters(families []inet.Family, release string) []parameter {
	list := []parameter{
		// Connections of IPVS are those of conntrack: the filter sees them as
		// established, and the nat table can masquerade them.
		{"net/ipv4/vs/conntrack", "1"},
		// A connection ends with its real server, and a new one on the same
		// ports is not sent to a server of weight 0.
		{"net/ipv4/vs/expire_nodest_conn", "1"},
		{"net/ipv4/vs/expire_quiescent_template", "1"},
		{"net/ipv4/vs/conn_reuse_mode", connReuseMode(release)},
		// No answer to ARP for the addresses of Services, which are on no
		// link, nor are they spoken of in questions.
		{"net/ipv4/conf/all/arp_ignore", "1"},
		{"net/ipv4/conf/all/arp_announce", "2"},
	}
	for _, f := range families {
		switch f {
		case inet.IPv4:
			list = append(list, parameter{"net/ipv4/ip_forward", "1"}, parameter{"net/bridge/bridge-nf-call-iptables", "1"})
		case inet.IPv6:
			list = append(list, parameter{"net/ipv6/conf/all/forwarding", "1"}, parameter{"net/bridge/bridge-nf-call-ip6tables", "1"})
		}
	}
	return list
}

// connReuseMode is what becomes of a new connection on the ports of one that
// has ended: 1 chooses a real server anew. Before Linux 5.9 that dropped the
// first packet, so that the client waited for a second; there 0 keeps the
// server ("ipvs: allow connection reuse for unconfirmed conntrack").
func connReuseMode(release string) string {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil && (major < 5 || major == 5 && minor < 9) {
		return "0"
	}
	return "1"
}

// preparePlatform loads modules and sets sysctls. Modules that could not be
// loaded are only told of where a sysctl of theirs is missing: they may be
// built in, or the container may lack /lib/modules while the host has them.
func (c *Controller) preparePlatform() error {
	moduleErr := c.drivers.Modules("ip_vs", "br_netfilter")
	release, _ := c.drivers.Sysctl.Get("kernel/osrelease")
	err := errors.Join(c.setParameters(parameters(c.config.Families, release)), c.prepareDirect())
	if err != nil && moduleErr != nil {
		err = errors.Join(err, moduleErr)
	}
	return err
}

// setParameters sets sysctls, all that can be set.
func (c *Controller) setParameters(list []parameter) error {
	var errs []error
	for _, p := range list {
		changed, err := c.drivers.Sysctl.Set(p.name, p.value)
		if err != nil {
			errs = append(errs, err)
		} else if changed {
			c.log.Info("services: sysctl set", "name", p.name, "value", p.value)
		}
	}
	return errors.Join(errs...)
}

// findNode reads who this node is, and what counts of the others. Without the
// first, the host would speak to Services with a source that nobody can answer.
func (c *Controller) findNode() error {
	node, peers := c.state.self()
	if node == nil {
		return fmt.Errorf("waiting for the Node object %s: the kubelet creates it; --hostname-override must be its name",
			c.config.NodeName)
	}
	me := identify(node, peers, c.config.Families)
	if len(me.addrs) == 0 {
		return fmt.Errorf("waiting for an address in the Node object %s: the kubelet or the cloud's controller sets it",
			c.config.NodeName)
	}
	if _, err := readWeight(peers[me.name].endpoints); err != nil {
		c.events.Warn("Node", &node.Meta, "BadWeight", err.Error())
	}
	if err := c.findAddresses(&me); err != nil {
		return err
	}
	old := c.me
	c.me = me
	if !me.same(old) {
		c.log.Info("services: this node", "node", me.name, "addresses", me.addrs, "podCIDRs", me.podCIDRs)
		if c.direct {
			c.queue.Mark(key{step: stepRules}) // they depend on the link with the address
		}
	}
	if c.begun() {
		c.markServices(c.concerned(old, me)...)
	}
	return c.setNodes()
}

// findAddresses makes all addresses of the host those of node ports, where that
// is configured.
func (c *Controller) findAddresses(me *self) error {
	if !c.config.NodePortsEverywhere {
		return nil
	}
	list, err := c.drivers.Links.Addrs()
	if err != nil {
		return fmt.Errorf("reading the host's addresses: %w", err)
	}
	for _, a := range list {
		if slices.Contains(c.config.Predecessors, a.Link) {
			continue
		}
		if ip := a.Prefix.Addr(); routable(ip) && slices.Contains(c.config.Families, inet.FamilyOf(ip)) && !slices.Contains(me.addrs, ip) {
			me.addrs = append(me.addrs, ip)
		}
	}
	return nil
}

// concerned are the Services that a change of the nodes may concern.
func (c *Controller) concerned(old, me self) []cluster.Key {
	all := !me.same(old)
	for name, p := range me.peers {
		all = all || p.endpoints != old.peers[name].endpoints
	}
	switch {
	case all:
		return c.state.keys()
	case maps.EqualFunc(old.peers, me.peers, peer.same):
		return nil
	}
	list := c.state.at(moved(old.owners, me.owners))
	for k, want := range c.plan.services {
		if want.direct {
			list = append(list, k)
		}
	}
	return list
}

// reap ends what drains.
func (c *Controller) reap() error {
	if c.servers == nil {
		return nil
	}
	_, err := c.servers.Reap(time.Now())
	return err
}

// openIPVS opens IPVS and reads it and the routes back, so that what is right
// already is adopted.
func (c *Controller) openIPVS() error {
	if c.servers == nil {
		driver, err := c.drivers.OpenIPVS()
		if err != nil {
			return err
		}
		if err := driver.SetTimeouts(ipvs.Timeouts{
			TCP: c.config.TCPTimeout, TCPFin: c.config.TCPFinTimeout, UDP: c.config.UDPTimeout,
		}); err != nil {
			if closer, ok := driver.(io.Closer); ok {
				_ = closer.Close() // the next try opens another
			}
			return fmt.Errorf("setting the timeouts of IPVS: %w", err)
		}
		c.servers = ipvs.NewServers(driver, c.owns)
		c.servers.Grace = c.config.GracePeriod
	}
	if err := c.servers.Load(); err != nil {
		return err
	}
	local, err := c.drivers.Routes.List(route.Local)
	if err != nil {
		return err
	}
	for k := range local {
		c.former[k.Dst.Addr()] = true
	}
	return c.routes.Load()
}

// owns says which virtual servers may be removed without having been wanted in
// this run. IPVS keeps no owner, so the address must tell: one of the range of
// cluster IPs, where that is known, one that has a local route of ours or gets
// one, or a node port of this node. What a former run let through is ours as well,
// whatever the node's addresses and the flags are now. A mark is ours where a set of
// ours has it.
func (c *Controller) owns(id ipvs.ID) bool {
	if id.Mark != 0 {
		return c.formerMarks[id.Mark]
	}
	addr := id.Addr.Addr()
	if contains(c.config.ExcludedCIDRs, addr) {
		return false
	}
	_, served := c.plan.vips.granted(addr)
	return served || contains(c.config.ServiceRanges, addr) || c.former[addr] || c.formerPorts[id] ||
		c.me.has(addr) && c.config.NodePorts.contains(id.Addr.Port())
}

// vipRoute makes the host accept what is sent to an address of a Service.
//
// One local route an address, rather than an address on a dummy link: no list
// of addresses that grows (KEP-3866 names that cost), nothing announced, and
// nothing that other programs take for an address of the host. And rather than
// one route for the whole range of cluster IPs: where the flag is wrong, that
// would swallow a network that is in use.
func vipRoute(addr, source netip.Addr) route.Route {
	return route.Route{
		Key: vipRouteKey(addr), Type: route.LocalType, Src: source, NextHops: []route.NextHop{{Link: "lo"}},
	}
}

func vipRouteKey(addr netip.Addr) route.Key {
	return route.Key{Table: route.Local, Dst: netip.PrefixFrom(addr, addr.BitLen())}
}
