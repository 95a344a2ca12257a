// Package cleanup removes from a node what the agent has made there, in every
// combination of features, and nothing else. It asks no API server: what is
// ours is told by its name, and what was before by a record that the agent
// keeps.
//
// Each driver removes what it is asked to; this package knows the order. What
// the kubelet looks at goes first, then what takes packets, then what lets them
// through, and at last what others rely on. What is needed to tell what is ours
// goes after what it tells of, so that a clean-up that was interrupted can be
// run again.
package cleanup

import (
	"context"
	"fmt"
	"io"
	"net/netip"

	"github.com/kube-router/kube-router/internal/cni"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// Node is a node on which no agent runs any more. A nil driver is of a facility
// that the kernel has not loaded, so that there is nothing of ours in it.
type Node struct {
	CNI     cni.File
	Routes  route.Interface
	Servers ipvs.Interface
	Rules   []Rules
	Sets    ipset.Interface
	Links   link.Interface
	Sysctl  sysctl.Interface
	// Record is what was on the node before.
	Record *record.File
	// Excluded hold virtual servers of others.
	Excluded []netip.Prefix

	// serversLeft says that virtual servers of ours may be left, so that the
	// sets stay by which the next run knows them.
	serversLeft bool
}

// Rules are iptables of one variant and family.
type Rules struct {
	Variant iptables.Variant
	Family  inet.Family
	Tables  iptables.Interface
}

// Remove removes everything of ours, as much as can be, and writes a line for
// each thing. Its error says that something is left.
func (n *Node) Remove(ctx context.Context, out io.Writer) error {
	return n.remove(ctx, &report{out: out})
}

func (n *Node) remove(ctx context.Context, r *report) error {
	for _, step := range []func(context.Context, *report){
		n.removeCNI, n.removeServices, n.removeRules, n.removeSets, n.removeLinks, n.restore,
	} {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: run it again to go on (%w)", context.Cause(ctx))
		}
		step(ctx, r)
	}
	return r.result()
}

// Options are what clean-up needs to know of the agent.
type Options struct {
	Excluded []netip.Prefix
	CNIFile  string
	Record   *record.File
	// HealthAddress is where an agent's health server would answer, or empty.
	HealthAddress string
}

// Run cleans this node, unless an agent runs on it: ErrRunning.
func Run(ctx context.Context, o Options, out io.Writer) error {
	held, err := exclude(ctx, presence, o.HealthAddress)
	if err != nil {
		return err
	}
	defer held.Close()
	r := &report{out: out}
	n := open(ctx, o, r)
	defer n.close()
	return n.remove(ctx, r)
}

// open opens what this kernel has loaded. What cannot be opened is reported,
// and the rest is done.
func open(ctx context.Context, o Options, r *report) *Node {
	n := &Node{CNI: cni.NewFile(o.CNIFile), Sysctl: sysctl.New(""), Record: o.Record, Excluded: o.Excluded}
	routes, err := route.Open()
	if err == nil {
		n.Routes = routes
	}
	r.failed("routes", err)
	links, err := link.Open()
	if err == nil {
		links.Record, n.Links = o.Record, links
	}
	r.failed("links", err)
	n.openSets(r)
	n.openServers(r)
	n.openRules(ctx, r)
	return n
}

func (n *Node) close() {
	for _, driver := range []any{n.Routes, n.Links, n.Sets, n.Servers} {
		switch d := driver.(type) {
		case interface{ Close() }:
			d.Close()
		case io.Closer:
			d.Close()
		}
	}
}
