//go:build kernel

package routes

import "testing"

func TestVXLANOnTheKernel(t *testing.T) {
	for _, test := range []struct {
		words string
		ipv6  bool
	}{{"vxlan", false}, {"full vxlan", true}} {
		t.Run(test.words, func(t *testing.T) { testOverlay(t, test.words, "kube-tun-vxlan", 1450, test.ipv6) })
	}
}
