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

func TestTunnelLinksOfTheKernel(t *testing.T) { testTunnelLinks(t, freshKernel) }

func TestFormerTunnelsGo(t *testing.T) {
	s := freshKernel(t)
	nstest.Run(t, "ip", "link", "add", "tun-0123456789a", "type", "ipip", "local", "192.168.66.11", "remote", "192.168.66.12")
	nstest.Run(t, "ip", "link", "add", "tun-vpn", "type", "ipip", "local", "192.168.66.11", "remote", "192.168.66.13")
	deleted, err := s.DeleteTunnels(func(string) bool { return false })
	if err != nil || len(deleted) != 1 || deleted[0] != "tun-0123456789a" {
		t.Errorf("DeleteTunnels = %v, %v", deleted, err)
	}
}

func TestNamespaceWithoutFallbackTunnels(t *testing.T) {
	nstest.Run(t, "sysctl", "-w", "net.core.fb_tunnels_only_for_init_net=1")
	t.Cleanup(func() { nstest.Run(t, "sysctl", "-w", "net.core.fb_tunnels_only_for_init_net=0") })
	changed, err := freshKernel(t).EnsureFallbackTunnel(inet.IPv4)
	if changed || err == nil || !strings.Contains(err.Error(), "fb_tunnels_only_for_init_net") {
		t.Errorf("EnsureFallbackTunnel = %t, %v", changed, err)
	}
}
