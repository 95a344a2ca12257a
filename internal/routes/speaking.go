package routes

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/peering"
)

// speakAs has the speaker speak as what the flags and its annotations make of
// this node.
func (c *Controller) speakAs(node *cluster.Node) error {
	own, problems, err := peering.ReadOwn(c.config.Peering, node, addrsOf(c.links))
	c.report(problems)
	if err != nil {
		return err
	}
	if err := c.speak(node, own); err != nil {
		return err
	}
	c.ownNode = node
	if !reflect.DeepEqual(own, c.own) {
		c.own = own
		c.queue.Mark(key{step: stepPeers})
	}
	return nil
}

func addrsOf(links []link.Addr) []netip.Addr {
	addrs := make([]netip.Addr, len(links))
	for i, l := range links {
		addrs[i] = l.Prefix.Addr()
	}
	return addrs
}

// report tells what was left out, on the Nodes that are at fault.
func (c *Controller) report(problems []peering.Problem) {
	for _, p := range problems {
		for _, name := range p.Nodes {
			if node := c.node(name); node != nil {
				c.events.Warn("Node", &node.Meta, p.Reason, p.Message)
			}
		}
	}
}

func (c *Controller) node(name string) *cluster.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

// speak starts the speaker, or another one where what a speaker cannot change
// is another.
func (c *Controller) speak(node *cluster.Node, own peering.Own) error {
	want := bgp.Config{
		ASN: own.ASN, RouterID: own.RouterID, ClusterID: own.ClusterID, DeferralTime: own.DeferralTime,
		Listen: own.Listen, Port: c.config.Peering.Port, Families: c.config.Families,
		GracefulRestart: c.config.GracefulRestart, RestartTime: c.config.RestartTime, AdminAddr: c.config.AdminAddr,
	}
	speaker := c.speaking()
	if speaker == nil {
		return c.startSpeaker(want)
	}
	why := anew(c.speaks, want, addrsOf(c.links))
	if why == "" {
		return c.changeRole(speaker, node, want)
	}
	c.log.Info("routes: BGP starts anew, because "+why+" changed", "asn", want.ASN, "routerID", want.RouterID,
		"clusterID", want.ClusterID, "listen", want.Listen)
	c.stopSpeaker()
	return c.startSpeaker(want)
}

// changeRole makes the speaker a reflector, or none. Without graceful restart
// the nodes drop this one's routes while their sessions with it start anew; so
// would the routers if the speaker did.
func (c *Controller) changeRole(speaker Speaker, node *cluster.Node, want bgp.Config) error {
	if c.speaks.ClusterID == want.ClusterID {
		return nil
	}
	if err := speaker.SetCluster(want.ClusterID); err != nil {
		return err
	}
	c.speaks.ClusterID, c.wanted = want.ClusterID, nil
	clear(c.leaving) // their sessions were those of the former role
	c.queue.Mark(key{step: stepPeers})
	c.events.Warn("Node", &node.Meta, "RoleChanged", "The node's role as a route reflector changed: "+
		"its sessions with other nodes start anew, and without --bgp-graceful-restart these have no routes to its Pods for some seconds")
	return nil
}

// anew says what of a speaker's configuration is another, or nothing. The role
// as a reflector can change in one that runs; but peers keep what a speaker said
// that restarts gracefully, and drop it where a session changes.
//
// An address to listen at that this host has lost is no reason: nobody comes
// there, the sessions at others are up, and when it is back it is listened at.
func anew(is, want bgp.Config, host []netip.Addr) string {
	listensElsewhere := slices.ContainsFunc(want.Listen, func(a netip.Addr) bool { return !slices.Contains(is.Listen, a) }) ||
		slices.ContainsFunc(is.Listen, func(a netip.Addr) bool { return !slices.Contains(want.Listen, a) && slices.Contains(host, a) })
	switch {
	case is.ASN != want.ASN:
		return "this node's AS number"
	case is.RouterID != want.RouterID || listensElsewhere:
		return "this node's address"
	case is.ClusterID != want.ClusterID && want.GracefulRestart:
		return "this node's role as a reflector"
	}
	return ""
}

// startSpeaker says that it restarts where one spoke before: peers then keep our
// routes until we have sent them again.
func (c *Controller) startSpeaker(config bgp.Config) error {
	left, err := c.drivers.Routes.List(route.Main)
	if err != nil {
		return err
	}
	spoke := c.speaks.ASN != 0
	config.Restarting = config.GracefulRestart && (c.former || spoke)
	config.OnRoute = func(p netip.Prefix) { c.queue.Mark(key{stepRoute, p}) }
	config.OnPeer = func(netip.Addr) { c.queue.Mark(key{step: stepSweep}) }
	config.OnLimit = c.reportLimit
	speaker, err := c.drivers.Speak(config, c.log)
	if err != nil {
		return err
	}
	c.speaks, c.wanted, c.left, c.settled = config, nil, len(left) > 0, time.Time{}
	clear(c.leaving)
	c.mu.Lock()
	c.speaker, c.spoke, c.swept = speaker, time.Now(), false
	for prefix := range c.desired {
		if !c.discarded[prefix] {
			delete(c.desired, prefix)
		}
	}
	clear(c.unusable)
	c.mu.Unlock()
	attrs := []any{"asn", config.ASN, "routerID", config.RouterID, "listen", config.Listen,
		"port", config.Port, "gracefulRestart", config.GracefulRestart, "restarting", config.Restarting}
	if config.ClusterID.IsValid() {
		attrs = append(attrs, "clusterID", config.ClusterID)
	}
	c.log.Info("routes: speaking BGP", attrs...)
	c.queue.Mark(key{step: stepAdvertise}, key{step: stepPeers}, key{step: stepSweep})
	return nil
}

// reportLimit tells of a peer whose session was ended, on this node.
func (c *Controller) reportLimit(_ netip.Addr, message string) {
	if node := c.node(c.config.NodeName); node != nil {
		c.events.Warn("Node", &node.Meta, "TooManyPrefixes", message)
	}
}

func (c *Controller) speaking() Speaker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.speaker
}

func (c *Controller) stopSpeaker() {
	if speaker := c.speaking(); speaker != nil {
		speaker.Stop()
	}
	c.mu.Lock()
	c.speaker = nil
	c.mu.Unlock()
}

// configurePeers hands the speaker its policy before the peers that it is for.
// Of this node it knows what the speaker was started with: what has come since
// is another step's first.
func (c *Controller) configurePeers() error {
	speaker := c.speaking()
	if speaker == nil {
		return errLater
	}
	nodes := c.present()
	if c.ownNode != nil {
		nodes[c.config.NodeName] = c.ownNode
	}
	peers, problems := peering.Peers(c.config.Peering, c.own, c.config.NodeName, nodes)
	c.report(problems)
	if err := errors.Join(speaker.SetPolicy(c.own.Policy), speaker.SetPeers(c.linger(peers, nodes))); err != nil {
		return err
	}
	c.queue.Mark(key{step: stepSweep})
	return nil
}

// linger returns the peers, and for a while those nodes that were peers and are
// none any more but still there: both ends hear of a change of the topology at
// different times, and what one says is needed until the others say it.
func (c *Controller) linger(peers []bgp.Peer, nodes map[string]*cluster.Node) []bgp.Peer {
	now := time.Now()
	wanted := map[netip.Addr]bool{}
	for _, p := range peers {
		wanted[p.Addr] = true
	}
	here := map[netip.Addr]bool{}
	for _, n := range nodes {
		for _, a := range n.InternalIPs {
			here[a] = true
		}
	}
	for _, p := range c.wanted {
		if !wanted[p.Addr] && here[p.Addr] && p.Role != bgp.External && c.config.Linger > 0 {
			c.leaving[p.Addr] = leaving{p, now.Add(c.config.Linger)}
			time.AfterFunc(c.config.Linger, func() { c.queue.Mark(key{step: stepPeers}) })
		}
	}
	c.wanted = peers
	for addr, l := range c.leaving {
		if wanted[addr] || !here[addr] || !now.Before(l.until) {
			delete(c.leaving, addr)
			continue
		}
		peers = append(slices.Clip(peers), l.peer)
	}
	return peers
}

// leaving is a peer that is none any more.
type leaving struct {
	peer  bgp.Peer
	until time.Time
}
