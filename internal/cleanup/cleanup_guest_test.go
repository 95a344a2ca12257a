//go:build guest

package cleanup

import (
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/overlay"
)

var everything = features{routes: true, services: true, policy: true, direct: true, wants: `removed virtual server -t 10.96.0.10:80
removed virtual server -u [fd00:96::10]:53
removed virtual server -t 192.168.66.11:30080
removed route local 203.0.113.9 dev lo proto 17 src 192.168.66.11 table local
removed bridge kube-bridge
restored IPVS timeout tcp = 13m20s
restored link tunl0 down
restored sysctl net/ipv4/vs/conntrack = 0 (it was 1)
`}

// guestKernel has no nf_tables.
var guestKernel = testKernel{variants: []iptables.Variant{iptables.Legacy}, ipvs: true}

func TestGuest(t *testing.T) {
	testFeatures(t, guestKernel, iptables.Legacy, []features{
		everything,
		{routes: true, services: true, policy: true},
		{services: true},
		{services: true, direct: true},
		{policy: true},
		{routes: true},
		{services: true, policy: true},
		{routes: true, services: true, direct: true, encap: overlay.FoU, wants: "removed tunnel kube-tun-ipip\nremoved tunnel kube-tun-sit\n"},
	})
	t.Run("interrupted", func(t *testing.T) { testInterrupted(t, guestKernel, iptables.Legacy, everything) })
}
