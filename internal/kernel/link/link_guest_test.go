//go:build guest

package link

import (
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

func TestTunnelsOfTheKernel(t *testing.T) { testTunnels(t, freshKernel) }

func TestTunnelOfTheKernelIsPutBack(t *testing.T) { testRestoreTunnel(t, freshKernel(t)) }

func TestNamespaceWithoutFallbackTunnels(t *testing.T) {
	nstest.Run(t, "sysctl", "-w", "net.core.fb_tunnels_only_for_init_net=1")
	t.Cleanup(func() { nstest.Run(t, "sysctl", "-w", "net.core.fb_tunnels_only_for_init_net=0") })
	changed, err := freshKernel(t).EnsureFallbackTunnel(inet.IPv4)
	if changed || err == nil || !strings.Contains(err.Error(), "fb_tunnels_only_for_init_net") {
		t.Errorf("EnsureFallbackTunnel = %t, %v", changed, err)
	}
}
