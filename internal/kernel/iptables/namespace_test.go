//go:build kernel || guest

package iptables

import (
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// openKernel returns the driver in a network namespace of the test's own.
func openKernel(t *testing.T, variant Variant, family inet.Family) *Kernel {
	t.Helper()
	nstest.New(t)
	k, err := Open(t.Context(), family, variant)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
