// Package kubeproxy knows kube-proxy: how one that runs shows on a node, and
// what one that ran has left in the kernel.
//
// The names are those of kube-proxy's modes iptables, ipvs and nftables, of all
// releases since Kubernetes 1.19 (pkg/proxy of kubernetes/kubernetes).
package kubeproxy

import (
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/nft"
)

const (
	// Link has the addresses of Services in the mode ipvs.
	Link = "kube-ipvs0"
	// Canary is the chain by which kube-proxy notices, in the mode iptables, that
	// somebody has flushed its rules. It makes it again then, and them.
	Canary = "KUBE-PROXY-CANARY"
	// MarkMasquerade and Masquerade are chains that other programs may use as
	// well: rules that mark a packet, and the rule that masquerades it.
	MarkMasquerade = "KUBE-MARK-MASQ"
	Masquerade     = "KUBE-POSTROUTING"
)

// everywhere are chains that kube-proxy has in one table or several.
var everywhere = []string{
	Canary, "KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL", "KUBE-FORWARD",
	"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER",
}

// hashed begin the names of chains of one Service or endpoint; the rest is a
// hash of 16 letters and digits.
var hashed = []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"}

// OwnsChain says whether a chain is kube-proxy's. KUBE-FIREWALL of the table
// filter, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT and KUBE-MARK-DROP are the
// kubelet's.
func OwnsChain(table iptables.Table, chain string) bool {
	if slices.Contains(everywhere, chain) || hasPrefix(chain, hashed) {
		return true
	}
	return table == iptables.NAT && slices.Contains([]string{MarkMasquerade, Masquerade, "KUBE-FIREWALL"}, chain)
}

func hasPrefix(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// sets are those of the mode ipvs, less "KUBE-".
var sets = []string{
	"LOOP-BACK", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "IPVS-IPS", "HEALTH-CHECK-NODE-PORT",
	"LOAD-BALANCER", "LOAD-BALANCER-FW", "LOAD-BALANCER-LOCAL", "LOAD-BALANCER-SOURCE-IP", "LOAD-BALANCER-SOURCE-CIDR",
	"NODE-PORT-TCP", "NODE-PORT-LOCAL-TCP", "NODE-PORT-UDP", "NODE-PORT-LOCAL-UDP", "NODE-PORT-SCTP-HASH", "NODE-PORT-LOCAL-SCTP-HASH",
}

// SetPrefixes begin the names of kube-proxy's IP sets, and perhaps others'. It
// cuts names that are too long for the kernel.
func SetPrefixes() []string {
	var prefixes []string
	for _, name := range sets {
		for _, family := range []string{"KUBE-", "KUBE-6-"} {
			prefixes = append(prefixes, (family + name)[:min(len(family+name), ipset.MaxNameLen)])
		}
	}
	return prefixes
}

// OwnsSet says whether an IP set is kube-proxy's.
func OwnsSet(name string) bool { return slices.Contains(SetPrefixes(), name) }

// Tables are those of the mode nftables.
func Tables() []nft.Table {
	return []nft.Table{{Family: "ip", Name: "kube-proxy"}, {Family: "ip6", Name: "kube-proxy"}}
}
