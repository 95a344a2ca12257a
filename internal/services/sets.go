package services

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// The IP sets of this controller, less the prefix of their IPv6 copies. They
// are all that grows with Services in the packet filter.
const (
	// vipSet are the addresses that are the host's only for Services' sake.
	vipSet = "kube-router-svip"
	// portSet are the addresses and ports that IPVS serves.
	portSet = "kube-router-svip-prt"
	// dropSet are those that are to be silent: see virtual.
	dropSet = "kube-router-svip-drop"
	// limitSet are those that only some sources may reach, and sourceSet these
	// sources.
	limitSet  = "kube-router-svip-lim"
	sourceSet = "kube-router-svip-src"
	// insideSet and tunnelSet are those that have a virtual server for clients
	// of this node, and one for what comes out of a tunnel: the packets' mark.
	insideSet = "kube-router-svip-in"
	tunnelSet = "kube-router-svip-tun"
	// hairpinSet are the Pods of this node that are endpoints: each with its
	// port, and itself as the client.
	hairpinSet = "kube-router-hairpin"
	// nodeSet are the addresses of all nodes.
	nodeSet = "kube-router-svip-nodes"
	// podSet are the networks of this node's Pods.
	podSet = "kube-router-node-pods"
)

// setTypes are the types of the sets.
var setTypes = map[string]ipset.Type{
	vipSet: ipset.HashIP, portSet: ipset.HashIPPort, dropSet: ipset.HashIPPort,
	limitSet: ipset.HashIPPort, sourceSet: ipset.HashIPPortNet,
	insideSet: ipset.HashIPPort, tunnelSet: ipset.HashIPPort,
	hairpinSet: ipset.HashIPPortIP, podSet: ipset.HashNet, nodeSet: ipset.HashIP,
}

// specOf is what a set is created with.
func specOf(name string, f inet.Family) ipset.Spec {
	return ipset.Spec{Type: setTypes[name], Family: f, SkbInfo: name == insideSet || name == tunnelSet}
}

// setName is the name of a set in a family.
func setName(name string, f inet.Family) string {
	if f == inet.IPv6 {
		return "inet6:" + name
	}
	return name
}

// OwnedSets are the sets that are this controller's, in both families: those
// of a family that is not enabled any more are removed.
func OwnedSets() []string {
	var names []string
	for name := range setTypes {
		names = append(names, setName(name, inet.IPv4), setName(name, inet.IPv6))
	}
	return names
}

// adoptSets reads the sets of a former run and takes them over as they are, or
// makes them: the rules need them, and until all Services have been programmed
// what is in them is the best there is.
func (c *Controller) adoptSets() error {
	found, err := c.drivers.Sets.List(OwnedSets()...)
	if err != nil {
		return fmt.Errorf("reading the IP sets of the kernel: %w", err)
	}
	want := map[string]ipset.Set{}
	for _, f := range c.config.Families {
		for base := range setTypes {
			name, spec := setName(base, f), specOf(base, f)
			set := ipset.Set{Spec: spec}
			if there, ok := found[name]; ok && there.Type == spec.Type && there.Family == f && there.SkbInfo == spec.SkbInfo {
				set = there
			}
			want[name] = set
		}
		c.adoptMarks(want, f)
		for e := range want[setName(portSet, f)].Entries {
			c.formerPorts[entryID(e)] = true
		}
	}
	if err := c.sets.PutAll(want); err != nil {
		return fmt.Errorf("making the IP sets: %w", err)
	}
	c.adopted = want
	c.direct = len(want[setName(nodeSet, inet.IPv4)].Entries) > 0 // in use with it only
	if c.direct {
		c.queue.Mark(key{step: stepPlatform})
	}
	return c.setNodes()
}

// adoptMarks takes over the marks of a former run.
func (c *Controller) adoptMarks(sets map[string]ipset.Set, f inet.Family) {
	for r, base := range markSets {
		for e := range sets[setName(base, f)].Entries {
			c.marks.adopt(marker{entryID(e), role(r)}, e.Mark)
			c.formerMarks[e.Mark] = true
		}
	}
}

// setNodes writes the networks of this node's Pods and the addresses of all
// nodes.
func (c *Controller) setNodes() error {
	if c.adopted == nil || c.me.name == "" {
		return nil // the later of adoptSets and findNode does it
	}
	want := map[string]ipset.Set{}
	for _, f := range c.config.Families {
		pods := ipset.Set{Spec: specOf(podSet, f), Entries: map[ipset.Entry]struct{}{}}
		for _, cidr := range c.me.podCIDRs {
			if inet.FamilyOf(cidr.Addr()) == f {
				pods.Entries[ipset.Entry{Prefix: cidr}] = struct{}{}
			}
		}
		nodes := ipset.Set{Spec: specOf(nodeSet, f), Entries: map[ipset.Entry]struct{}{}}
		for _, p := range c.me.peers {
			if a := p.addr(f); a.IsValid() && c.direct {
				nodes.Entries[ipset.IP(a)] = struct{}{}
			}
		}
		want[setName(podSet, f)], want[setName(nodeSet, f)] = pods, nodes
	}
	return c.sets.PutAll(want)
}

// editSets adds entries to the copies of a set that their families tell and
// deletes others. It returns the error of each family that failed.
func (c *Controller) editSets(base string, add, del []ipset.Entry) map[inet.Family]error {
	failed := map[inet.Family]error{}
	for _, f := range c.config.Families {
		add, del := ofFamily(add, f), ofFamily(del, f)
		if len(add)+len(del) == 0 {
			continue
		}
		if err := c.sets.Edit(setName(base, f), add, del); err != nil {
			failed[f] = err
		}
	}
	return failed
}

// empty says that there is nothing in the copies of a set.
func (c *Controller) empty(base string) bool {
	return !slices.ContainsFunc(c.config.Families, func(f inet.Family) bool { return !c.sets.Empty(setName(base, f)) })
}

// ofFamily are the entries of a family: mostly all or none are.
func ofFamily(entries []ipset.Entry, f inet.Family) []ipset.Entry {
	other := func(e ipset.Entry) bool { return inet.FamilyOf(e.Prefix.Addr()) != f }
	if !slices.ContainsFunc(entries, other) {
		return entries
	}
	var list []ipset.Entry
	for _, e := range entries {
		if !other(e) {
			list = append(list, e)
		}
	}
	return list
}

// sweepSet deletes the entries of a former run that nobody wants, in the
// enabled families.
func (c *Controller) sweepSet(base string, wanted func(ipset.Entry) bool) error {
	for _, f := range c.config.Families {
		name := setName(base, f)
		var gone []ipset.Entry
		for entry := range maps.Keys(c.adopted[name].Entries) {
			if !wanted(entry) {
				gone = append(gone, entry)
			}
		}
		if len(gone) == 0 {
			continue
		}
		if err := c.sets.Edit(name, nil, gone); err != nil {
			return err
		}
	}
	return nil
}
