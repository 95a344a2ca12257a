package policy

import (
	"net/netip"

	"github.com/kube-router/kube-router/internal/cluster"
)

// key is dirty work: a unit of rules, an address whose place in the sets may
// have changed, or one of the three below.
type key struct {
	kind kind
	name cluster.Key // of a Pod or a policy
	addr netip.Addr
}

type kind uint8

const (
	allKind      kind = iota // everything is compiled anew
	resyncKind               // the kernel is read back
	platformKind             // modules and sysctls
	nodeKind                 // this node's Pod CIDRs
	podKind                  // a Pod of this node
	policyKind
	addrKind
)

// String is "pod red/web-1", "address 10.244.1.7", "rules", "platform" or "resync".
func (k key) String() string {
	switch k.kind {
	case allKind:
		return "rules"
	case resyncKind:
		return "resync"
	case platformKind:
		return "platform"
	case nodeKind:
		return "node"
	case podKind:
		return "pod " + k.name.String()
	case policyKind:
		return "policy " + k.name.String()
	}
	return "address " + k.addr.String()
}

var (
	rulesKey    = key{kind: allKind}
	resyncKey   = key{kind: resyncKind}
	platformKey = key{kind: platformKind}
)

// dirt is what has changed: local Pods and policies, or everything.
type dirt struct {
	all      bool
	pods     map[cluster.Key]struct{}
	policies map[cluster.Key]struct{}
}

// add notes that a Pod or a policy has changed.
func (d dirt) add(k key) {
	switch k.kind {
	case podKind:
		d.pods[k.name] = struct{}{}
	case policyKind:
		d.policies[k.name] = struct{}{}
	}
}

func (d dirt) empty() bool { return !d.all && len(d.pods)+len(d.policies) == 0 }

func sortOut(keys []key) (d dirt, addrs []netip.Addr, resync bool) {
	d.pods, d.policies = map[cluster.Key]struct{}{}, map[cluster.Key]struct{}{}
	for _, k := range keys {
		switch k.kind {
		case allKind:
			d.all = true
		case resyncKind:
			resync = true
		case addrKind:
			addrs = append(addrs, k.addr)
		default:
			d.add(k)
		}
	}
	return d, addrs, resync
}
