//go:build kernel

package sysctl

import (
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// /proc/sys/net shows the namespace of the thread that opens a file.
func TestKernel(t *testing.T) {
	nstest.New(t)
	k := New("")
	for _, want := range []bool{true, false} {
		if changed, err := k.Set("net/ipv4/conf/lo/rp_filter", "2"); err != nil || changed != want {
			t.Errorf("Set = %t, %v, want %t", changed, err, want)
		}
	}
	if got := nstest.Run(t, "sysctl", "-n", "net.ipv4.conf.lo.rp_filter"); got != "2\n" {
		t.Errorf("sysctl says %q", got)
	}
}
