//go:build kernel

package iptables

import (
	"fmt"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

// forEach runs a test for both variants in both families.
func forEach(t *testing.T, test func(t *testing.T, variant Variant, family inet.Family)) {
	for _, variant := range []Variant{Legacy, NFT} {
		for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
			t.Run(fmt.Sprintf("%s %s", variant, family), func(t *testing.T) { test(t, variant, family) })
		}
	}
}

func TestKernel(t *testing.T) {
	forEach(t, func(t *testing.T, variant Variant, family inet.Family) {
		runSuite(t, family, func(t *testing.T) Interface { return openKernel(t, variant, family) })
	})
}
