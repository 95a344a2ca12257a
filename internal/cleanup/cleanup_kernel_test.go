//go:build kernel

package cleanup

import (
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

var withoutIPVS = []features{
	{routes: true, wants: "removed bridge kube-bridge\nremoved route 10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17\n" +
		"restored sysctl net/ipv4/ip_forward = 0 (it was 1)\nremoved CNI configuration "},
	{policy: true, wants: "removed IP set kube-router-isolated-pods\n"},
	{routes: true, policy: true},
}

// This host's kernel need not have IPVS, but it has both variants of iptables.
func TestKernel(t *testing.T) {
	for _, variant := range []iptables.Variant{iptables.Legacy, iptables.NFT} {
		t.Run(string(variant), func(t *testing.T) {
			testFeatures(t, variant, false, withoutIPVS)
			t.Run("interrupted", func(t *testing.T) { testInterrupted(t, variant, false, features{routes: true, policy: true}) })
		})
	}
}
