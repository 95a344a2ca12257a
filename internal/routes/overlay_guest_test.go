//go:build guest

package routes

import "testing"

func TestIPIPOnTheKernel(t *testing.T) { testOverlay(t, "ipip", "kube-tun-ipip", 1480, true) }

func TestFoUOnTheKernel(t *testing.T) { testOverlay(t, "fou", "kube-tun-ipip", 1468, true) }
