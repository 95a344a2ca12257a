package services

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// tunnelLink is where packets of IPIP tunnels arrive that no other link takes,
// and overlayLink the one that takes them where an overlay has such tunnels.
var (
	tunnelLink  = link.FallbackTunnel(inet.IPv4)
	overlayLink = link.Tunnel{Kind: link.IPIP}.Name()
)

// defaultMTU is that of Ethernet, in bytes.
const defaultMTU = 1500

// tunnelRules let nothing come out of a tunnel but packets to Services with
// direct server return, and nothing into it but from nodes.
func tunnelRules(f inet.Family, direct bool) []string {
	if !direct || f != inet.IPv4 {
		return nil
	}
	return []string{
		`-p 4 -m set ! --match-set ` + setName(nodeSet, f) + ` src -m comment --comment "tunnels are for nodes" -j DROP`,
		`-i ` + tunnelLink + ` -m mark --mark 0x0/` + markMask + ` -m comment --comment "tunnels are for services" -j DROP`,
	}
}

func forwardTunnelRules(f inet.Family, direct bool) []string {
	if !direct || f != inet.IPv4 {
		return nil
	}
	return []string{`-i ` + tunnelLink + ` -m comment --comment "tunnels are for services" -j DROP`}
}

// headers are the bytes of the IPv4 header of a tunnel, and of the headers of
// IPv4 and TCP inside of it.
const headers = 20 + 20 + 20

// sizeRules keep the segments of clients so small that they fit into the tunnel:
// the answers of Services with direct server return say so. mtu is that of the
// links between nodes.
func sizeRules(f inet.Family, direct bool, mtu int) []string {
	if !direct || f != inet.IPv4 {
		return nil
	}
	return []string{`-p tcp -m tcp --tcp-flags SYN,RST SYN -m set --match-set ` + setName(tunnelSet, f) +
		` src,src -m comment --comment "room for the tunnel" -j TCPMSS --set-mss ` + strconv.Itoa(mtu-headers)}
}

// prepareDirect makes the node take part in direct server return: the tunnel's
// end, and no check of source addresses where they must look wrong. What comes
// out of the tunnel is from clients that are not behind it; its link has no
// address, so that only 0 lets them in. And to a client on this node an answer
// comes from the Service's address, which is this node's own as well
// (Documentation/networking/ip-sysctl.rst, rp_filter and accept_local).
func (c *Controller) prepareDirect() error {
	if !c.direct {
		return c.endDirect()
	}
	if !slices.Contains(c.config.Families, inet.IPv4) {
		return nil
	}
	if _, err := c.drivers.Links.EnsureFallbackTunnel(inet.IPv4); err != nil {
		return fmt.Errorf("direct server return: %w", err)
	}
	addrs, err := c.drivers.Links.Addrs()
	if err != nil {
		return fmt.Errorf("direct server return: %w", err)
	}
	strict, _ := c.drivers.Sysctl.Get(conf("all", "rp_filter"))
	var list []parameter
	for _, a := range addrs {
		if ip := a.Prefix.Addr(); !ip.Is4() || ip.IsLoopback() {
			continue
		}
		list = append(list, parameter{conf(a.Link, "accept_local"), "1"})
		if own, _ := c.drivers.Sysctl.Get(conf(a.Link, "rp_filter")); own == "1" || strict == "1" {
			list = append(list, parameter{conf(a.Link, "rp_filter"), "2"})
		}
	}
	// The stricter of all's and a link's counts: the links have theirs by now.
	list = append(list, parameter{conf("all", "rp_filter"), "0"}, parameter{conf(tunnelLink, "rp_filter"), "0"})
	return c.setParameters(list)
}

// endDirect puts the checks of source addresses back as they were, once the last
// Service with direct server return is gone. An overlay has turned them off as
// well, and keeps them so.
func (c *Controller) endDirect() error {
	record, ok := c.drivers.Sysctl.(interface {
		Restore(which func(name string) bool) ([]sysctl.Restored, error)
	})
	if !c.directEnded || !ok || len(c.drivers.Sysctl.Names(conf(link.TunnelPrefix+"*", "rp_filter"))) > 0 {
		return nil
	}
	restored, err := record.Restore(func(name string) bool {
		return strings.HasPrefix(name, "net/ipv4/conf/") && (path.Base(name) == "rp_filter" || path.Base(name) == "accept_local")
	})
	for _, r := range restored {
		c.log.Info("services: sysctl put back", "name", r.Name, "value", r.Value)
	}
	if err != nil {
		return fmt.Errorf("after direct server return: %w", err)
	}
	c.directEnded = false
	return nil
}

// nodeMTU is the MTU of the link with this node's address, in bytes.
func (c *Controller) nodeMTU() (int, error) {
	addrs, err := c.drivers.Links.Addrs()
	if err != nil {
		return 0, fmt.Errorf("direct server return: %w", err)
	}
	for _, a := range addrs {
		if a.Prefix.Addr() == c.me.source[inet.IPv4] {
			return a.MTU, nil
		}
	}
	return defaultMTU, nil
}

// conf is a parameter of a link.
func conf(link, name string) string { return "net/ipv4/conf/" + link + "/" + name }

// noteDirect turns what all direct server return needs on with the first
// Service that asks for it, and off when there is none left.
func (c *Controller) noteDirect() {
	wanted := c.plan.directs > 0
	if wanted == c.direct || !wanted && !c.done[stepSweep] {
		return
	}
	c.direct, c.directEnded = wanted, !wanted
	c.log.Info("services: direct server return", "on", wanted)
	if !wanted {
		if err := c.drivers.Links.EnsureLinkDown(tunnelLink); err != nil && !errors.Is(err, link.ErrNotFound) {
			c.log.Warn("services: the tunnel's link stays up", "link", tunnelLink, "err", err)
		}
	}
	for _, s := range []step{stepPlatform, stepNode, stepRules} {
		c.queue.Mark(key{step: s})
	}
}
