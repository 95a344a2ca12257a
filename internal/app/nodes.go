package app

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/kube-router/kube-router/internal/cluster"
)

// nodes are the cluster's Nodes, as advice needs them.
type nodes struct {
	mu  sync.Mutex
	all map[string]*cluster.Node
}

// watchNodes follows the Nodes of feeds.
func watchNodes(feeds *cluster.Feeds) *nodes {
	n := &nodes{all: map[string]*cluster.Node{}}
	feeds.Nodes.Subscribe(func(change cluster.Change[cluster.Node]) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if change.New != nil {
			n.all[change.New.Name] = change.New
		} else {
			delete(n.all, change.Old.Name)
		}
	})
	return n
}

// meta is the Meta of a Node, or nil.
func (n *nodes) meta(name string) *cluster.Meta {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node := n.all[name]; node != nil {
		return &node.Meta
	}
	return nil
}

func (n *nodes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.all)
}

// names are the nodes by each of their addresses.
func (n *nodes) names() map[netip.Addr]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	names := map[netip.Addr]string{}
	for name, node := range n.all {
		for _, ip := range slices.Concat(node.InternalIPs, node.ExternalIPs) {
			names[ip] = name
		}
	}
	return names
}

// pods are the networks of the Pods of each node.
func (n *nodes) pods() map[string][]netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	pods := map[string][]netip.Prefix{}
	for name, node := range n.all {
		pods[name] = node.PodCIDRs
	}
	return pods
}
