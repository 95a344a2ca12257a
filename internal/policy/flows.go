package policy

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// cutMark is in the connection's mark of a flow that was established and that
// the policies do not allow any more. The rules refuse its packets in both
// directions.
//
// The flow is not deleted from connection tracking: its next packet may be one
// of the server, which would then count as a connection that the server makes.
const cutMark, cutMatch = 0x20000, "0x20000/0x20000"

// cutChain refuses the packets of flows that were cut.
const cutChain = podPrefix + "CUT"

// cutRule leads packets of flows that were cut to cutChain, before what is
// established passes.
func (c Config) cutRule() []string {
	if !c.CutFlows {
		return nil
	}
	return []string{"-m connmark --mark " + cutMatch + " -j " + cutChain}
}

// refuseCut ends a TCP connection on both sides: each hears of it with its next
// packet. What is RELATED is the refusals themselves, on their way out.
func refuseCut(f inet.Family) []string {
	why := comment("cut, as policies do not allow it any more")
	return []string{
		"-m conntrack --ctstate RELATED -j RETURN",
		"-p tcp " + why + " -j REJECT --reject-with tcp-reset",
		why + " -j REJECT --reject-with " + unreachable(f),
	}
}

// The pace of cutting: changes that come together are one reading of the
// connections, and readings take at most a part of the time.
const (
	cutEvery = time.Second
	cutRest  = 20 // times as long as a reading took
	cutRetry = 10 * time.Second
)

// Flows are the tracked connections, as the controller sees them.
type Flows interface {
	Mark(family inet.Family, bits uint32, want func(conntrack.Entry) bool) (conntrack.Marks, error)
}

// cutter cuts the flows that policies no longer allow.
type cutter struct {
	due     chan struct{}
	flows   Flows
	host    func() ([]netip.Addr, error)
	total   atomic.Uint64 // that were cut
	present atomic.Int64  // that are cut now
}

func newCutter(d Drivers) *cutter {
	return &cutter{due: make(chan struct{}, 1), flows: d.Flows, host: d.HostAddrs}
}

// FlowsCut is how many established flows were cut because a policy no longer
// allows them.
func (c *Controller) FlowsCut() uint64 { return c.cutter.total.Load() }

// forbidden notes that the kernel may allow less than before.
func (c *cutter) forbidden() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// edited notes that addresses were put into sets or taken out. Where they were
// put in only, that concerns flows which were cut.
func (c *cutter) edited(edits map[string]edit) {
	for _, e := range edits {
		if len(e.absent) > 0 || c.present.Load() > 0 {
			c.forbidden()
			return
		}
	}
}

// cutFlows looks at the established flows after changes, until ctx ends. It
// never keeps the programming waiting.
func (c *Controller) cutFlows(ctx context.Context) {
	if !c.config.CutFlows {
		return
	}
	complaint := reconcile.Complaints{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.cutter.due:
		}
		began := time.Now()
		err := c.cut()
		pause := max(cutEvery, cutRest*time.Since(began))
		switch began, ended := complaint.Change("flows", err); {
		case ended:
			c.log.Info("policy: established flows are looked at again")
		case began:
			c.log.Error("policy: cannot cut established flows that a policy forbids; new ones are denied, and it is tried again", "err", err)
		}
		if err != nil {
			c.cutter.forbidden()
			pause = max(pause, cutRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// cut marks the flows that are to be cut, and takes the mark off those that
// are allowed again.
func (c *Controller) cut() error {
	host, err := c.cutter.host()
	if err != nil {
		return err
	}
	v := &verdict{state: c.state, config: c.config, host: map[netip.Addr]bool{}, isolating: map[cluster.Key][directions][]cluster.Key{}}
	for _, addr := range host {
		v.host[addr] = true
	}
	var errs []error
	var all conntrack.Marks
	for _, f := range c.config.Families {
		marks, err := c.cutter.flows.Mark(f, cutMark, func(e conntrack.Entry) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return !v.allows(connectionOf(e))
		})
		errs = append(errs, err)
		all.Added, all.Total = all.Added+marks.Added, all.Total+marks.Total
	}
	c.cutter.total.Add(uint64(all.Added))
	c.cutter.present.Store(int64(all.Total))
	if all.Added > 0 {
		c.log.Info("policy: flows were cut that the policies do not allow any more", "count", all.Added)
	}
	return errors.Join(errs...)
}

// connection is a flow by who began it, and who answers after all translations.
type connection struct {
	protocol       inet.Protocol
	client, server netip.Addr
	port           uint16 // of the server; 0 where the protocol has none
}

func connectionOf(e conntrack.Entry) connection {
	return connection{e.Protocol, e.From.Addr(), e.ReplyFrom.Addr(), e.ReplyFrom.Port()}
}

// verdict decides about connections as the rules do, from the state.
type verdict struct {
	state  *state
	config Config
	host   map[netip.Addr]bool // this node's addresses
	// isolating remembers which policies isolate a Pod.
	isolating map[cluster.Key][directions][]cluster.Key
}

// allows says whether the rules would let a connection come about that is not
// established.
func (v *verdict) allows(c connection) bool {
	return (v.toService(c) || v.side(egress, c.client, c.server, c)) &&
		(v.ofHost(c.client) || v.side(ingress, c.server, c.client, c))
}

// ofHost says whether the host itself sends from an address. It has those of
// the Services, too.
func (v *verdict) ofHost(addr netip.Addr) bool {
	return v.host[addr] || addr.IsLoopback() || v.inServices(addr)
}

// toService says whether a connection ends at the host and goes to what the
// rules take for a Service.
func (v *verdict) toService(c connection) bool {
	port := (c.protocol == inet.TCP || c.protocol == inet.UDP || c.protocol == inet.SCTP) && v.config.NodePorts.contains(c.port)
	return v.inServices(c.server) || v.host[c.server] && (port || within(v.config.ExternalRanges, c.server))
}

// inServices says whether an address is a Service's, by its range. That may be a
// guess, and a Pod's address is the Pod's.
func (v *verdict) inServices(addr netip.Addr) bool {
	return within(v.config.ServiceRanges, addr) && len(v.state.holders[addr]) == 0
}

func within(ranges []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(addr) })
}

// side says whether the policies allow a connection that isolate its Pod, if
// there is one, in a direction.
func (v *verdict) side(d direction, own, peer netip.Addr, c connection) bool {
	for _, pod := range v.state.holders[own] {
		if !v.state.isolable(pod) || podIP(pod, inet.FamilyOf(own)) != own {
			continue
		}
		keys := v.policies(pod)[d]
		if len(keys) > 0 && !slices.ContainsFunc(keys, func(key cluster.Key) bool { return v.policyAllows(key, d, peer, c) }) {
			return false
		}
	}
	return true
}

func (v *verdict) policies(pod *cluster.Pod) [directions][]cluster.Key {
	both, known := v.isolating[pod.Key]
	if !known {
		both = v.state.isolating(pod)
		v.isolating[pod.Key] = both
	}
	return both
}

func (v *verdict) policyAllows(key cluster.Key, d direction, peer netip.Addr, c connection) bool {
	p := v.state.policy(key)
	if p == nil {
		return false
	}
	rules := p.Ingress
	if d == egress {
		rules = p.Egress
	}
	return slices.ContainsFunc(rules, func(r cluster.PolicyRule) bool {
		return v.peers(p.Namespace, r, peer) && v.ports(r, d, c)
	})
}

func (v *verdict) peers(namespace string, r cluster.PolicyRule, addr netip.Addr) bool {
	if r.AnyPeer {
		return true
	}
	pods := podPeers{namespace: namespace}
	for _, peer := range r.Peers {
		if peer.Block == nil {
			pods.peers = append(pods.peers, peer)
		} else if holds(peer.Block, addr) {
			return true
		}
	}
	return len(pods.peers) > 0 && pods.hold(v.state, addr)
}

func holds(b *cluster.IPBlock, addr netip.Addr) bool {
	return b.CIDR.Contains(addr) && !slices.ContainsFunc(b.Except, func(e netip.Prefix) bool { return e.Contains(addr) })
}

func (v *verdict) ports(r cluster.PolicyRule, d direction, c connection) bool {
	return r.AnyPort || slices.ContainsFunc(r.Ports, func(p cluster.PolicyPort) bool {
		switch {
		case p.Protocol != c.protocol:
			return false
		case p.Name != "":
			return v.named(&namedPort{p.Protocol, p.Name, d == ingress}, c)
		}
		return p.Port == 0 || p.Port <= c.port && c.port <= max(p.Port, p.End)
	})
}

// named says whether the server has the port under that name.
func (v *verdict) named(n *namedPort, c connection) bool {
	return slices.ContainsFunc(v.state.holders[c.server], func(pod *cluster.Pod) bool {
		return podIP(pod, inet.FamilyOf(c.server)) == c.server && n.concerns(v.state, pod) &&
			slices.ContainsFunc(pod.Ports, func(has cluster.ContainerPort) bool {
				return has.Name == n.name && has.Protocol == n.protocol && has.Port != 0 && has.Port == c.port
			})
	})
}
