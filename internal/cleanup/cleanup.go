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
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/kube-router/kube-router/internal/cni"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/nft"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/kubeproxy"
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
	// Tables are those of nftables.
	Tables nft.Interface
	// Excluded hold virtual servers of others.
	Excluded []netip.Prefix
	// NodePorts is the cluster's range of node ports.
	NodePorts PortRange

	// serversLeft says that virtual servers of ours may be left, so that the
	// sets stay by which the next run knows them.
	serversLeft bool
}

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

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
		n.removeCNI, n.removeServices, n.removeRules, n.removeFormer, n.removeSets, n.removeLinks, n.restore,
	} {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: run it again to go on (%w)", context.Cause(ctx))
		}
		step(ctx, r)
	}
	return r.result()
}

// Options are what clean-up needs to know of the agent, and of kube-proxy.
type Options struct {
	Excluded  []netip.Prefix
	NodePorts PortRange
	CNIFile   string
	Record    *record.File
	// HealthAddress is where an agent's health server would answer, or empty.
	HealthAddress string
	// Socket is where an agent would tell its status, or empty.
	Socket string
	// KubeProxy is where a kube-proxy would run.
	KubeProxy KubeProxy
}

// KubeProxy is kubeproxy.Host.
type KubeProxy interface {
	// Running returns the signs of one that runs.
	Running(context.Context) []string
	// SeesProcesses says whether none can hide.
	SeesProcesses() bool
}

// Run cleans this node of what the agent has made, and of what a kube-proxy left
// that does not run any more. What a kube-proxy has that runs stays.
//
// While the agent runs, what is its own stays: it would make everything again.
func Run(ctx context.Context, o Options, out io.Writer) error {
	alone, err := claimMigration()
	if err != nil {
		return err
	}
	defer alone.Close()
	held, err := exclude(ctx, presence, o.HealthAddress)
	if errors.Is(err, ErrRunning) {
		return o.besideAgent(ctx, out)
	}
	if err != nil {
		return err
	}
	defer held.Close()
	r := &report{out: out}
	n := open(ctx, o, r)
	defer n.close()
	if err := o.kubeProxyRuns(ctx); err != nil {
		r.note("kept what is kube-proxy's: it runs on this node (" + strings.Join(o.KubeProxy.Running(ctx), ", ") + ")")
	} else if err := n.leaveKubeProxy(ctx, o, r); errors.Is(err, ErrKubeProxyRuns) {
		r.note("kept what is kube-proxy's: it runs on this node, for it has made its chain " + kubeproxy.Canary + " again")
	} else {
		r.failed("what kube-proxy left", err)
	}
	return n.remove(ctx, r)
}

// besideAgent removes what kube-proxy left, while the agent runs.
func (o Options) besideAgent(ctx context.Context, out io.Writer) error {
	if err := o.awaitKubeProxyEnd(ctx, out); err != nil {
		return err
	}
	r := &report{out: out}
	switch err := o.agentServes(ctx); {
	case errors.Is(err, errProxyOff):
		r.note("kept what is kube-proxy's: kube-router leaves Services to it (--run-service-proxy=false)")
	case err != nil && !errors.Is(err, ErrNoAgent): // one that only answers is of another release
		return err
	default:
		n := open(ctx, o, r)
		defer n.close()
		if err := n.leaveKubeProxy(ctx, o, r); err != nil {
			return err
		}
		if r.changed+r.stays+r.unsolved == 0 {
			r.note("nothing of kube-proxy is left")
		}
	}
	r.note("kept what is kube-router's: it runs on this node and would make everything again. To remove that as well: " +
		"kubectl -n kube-system delete daemonset kube-router, or keep it off this node; then run this again on the node")
	return r.result()
}

// open opens what this kernel has loaded. What cannot be opened is reported,
// and the rest is done.
func open(ctx context.Context, o Options, r *report) *Node {
	n := &Node{CNI: cni.NewFile(o.CNIFile), Sysctl: sysctl.New(""), Record: o.Record, Excluded: o.Excluded, NodePorts: o.NodePorts}
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
	n.openTables(r)
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
