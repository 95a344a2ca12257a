package kubeproxy

import (
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// What is kube-proxy's, and what looks like it and is not.
func TestOwnsChain(t *testing.T) {
	for chain, want := range map[string]string{
		"KUBE-SERVICES": "filter nat mangle", "KUBE-NODEPORTS": "filter nat mangle", "KUBE-EXTERNAL-SERVICES": "filter nat mangle",
		"KUBE-PROXY-FIREWALL": "filter nat mangle", "KUBE-FORWARD": "filter nat mangle", "KUBE-PROXY-CANARY": "filter nat mangle",
		"KUBE-SVC-NPX46M4PTMTKRN6Y": "filter nat mangle", "KUBE-SEP-NPX46M4PTMTKRN6Y": "filter nat mangle", "KUBE-FW-NPX46M4PTMTKRN6Y": "filter nat mangle",
		"KUBE-EXT-NPX46M4PTMTKRN6Y": "filter nat mangle", "KUBE-XLB-NPX46M4PTMTKRN6Y": "filter nat mangle", "KUBE-SVL-NPX46M4PTMTKRN6Y": "filter nat mangle",
		"KUBE-IPVS-FILTER": "filter nat mangle", "KUBE-NODE-PORT": "filter nat mangle", "KUBE-LOAD-BALANCER": "filter nat mangle",
		"KUBE-POSTROUTING": "nat", "KUBE-MARK-MASQ": "nat",
		// Of the kubelet, but for the table nat, where only kube-proxy has it.
		"KUBE-FIREWALL": "nat", "KUBE-KUBELET-CANARY": "", "KUBE-MARK-DROP": "", "KUBE-IPTABLES-HINT": "",
		// Ours.
		"KUBE-ROUTER-SERVICES": "", "KUBE-ROUTER-FORWARD": "", "KUBE-POD-FW-NPX46M4PTMTKRN6Y": "", "KUBE-NWPLCY-NPX46M4PTMTKRN6Y": "",
		// Of others.
		"KUBE-SERVICES-MINE": "", "DOCKER": "", "CNI-HOSTPORT-SETMARK": "", "INPUT": "", "": "",
	} {
		got := ""
		for _, table := range iptables.Tables() {
			if OwnsChain(table, chain) {
				got += " " + string(table)
			}
		}
		if got != "" {
			got = got[1:]
		}
		if got != want {
			t.Errorf("%s is kube-proxy's in %q, want %q", chain, got, want)
		}
	}
}

func TestOwnsSet(t *testing.T) {
	for name, want := range map[string]bool{
		"KUBE-CLUSTER-IP": true, "KUBE-LOOP-BACK": true, "KUBE-NODE-PORT-TCP": true, "KUBE-6-CLUSTER-IP": true, "KUBE-LOAD-BALANCER-SOURCE-CIDR": true,
		"KUBE-6-LOAD-BALANCER-SOURCE-CID": true, "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS": true,
		"KUBE-CLUSTER-IP-MINE": false, "KUBE-SRC-NPX46M4PTMTKRN6Y": false, "KUBE-ROUTER-X": false, "kube-router-svip": false,
	} {
		if OwnsSet(name) != want {
			t.Errorf("%s: %t", name, !want)
		}
	}
}
