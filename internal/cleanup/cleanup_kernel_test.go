//go:build kernel

package cleanup

import (
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/overlay"
)

// thisKernel need not have IPVS, but it has both variants of iptables.
var thisKernel = testKernel{variants: []iptables.Variant{iptables.Legacy, iptables.NFT}}

var withoutIPVS = []features{
	{routes: true, wants: "removed bridge kube-bridge\nremoved route 10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17\n" +
		"restored sysctl net/ipv4/ip_forward = 0 (it was 1)\n"},
	{routes: true, encap: overlay.VXLAN, wants: "removed ip rule 32700: from 10.244.1.0/24 lookup 77\n" +
		"removed route 192.168.66.12 via 192.168.66.12 dev kube-tun-vxlan proto 17 onlink table 77\n" +
		"removed tunnel kube-tun-vxlan\nrestored sysctl net/ipv4/conf/all/rp_filter = 1 (it was 0)\n"},
	{policy: true, wants: "removed IP set kube-router-isolated-pods\n"},
	{routes: true, policy: true},
}

func TestKernel(t *testing.T) {
	for _, variant := range thisKernel.variants {
		t.Run(string(variant), func(t *testing.T) {
			testFeatures(t, thisKernel, variant, withoutIPVS)
			t.Run("interrupted", func(t *testing.T) {
				testInterrupted(t, thisKernel, variant, features{routes: true, policy: true})
			})
		})
	}
}

// A host may have changed from one variant of iptables to the other.
func TestKernelWithBothVariants(t *testing.T) {
	n := newNode(t, thisKernel, iptables.Legacy)
	n.run(features{routes: true, policy: true})
	n.variant = iptables.NFT
	n.run(features{routes: true, policy: true})
	n.clean()
	n.isAsBefore()
}
