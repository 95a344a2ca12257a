package app

import (
	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/overlay"
)

// overlayConfig is what the flags say about tunnels between nodes.
func overlayConfig(cfg config.Config) overlay.Config {
	return overlay.Config{
		Enabled: cfg.Overlay.Enabled, Full: cfg.Overlay.Type == config.OverlayFull,
		Encap: overlay.Encap(cfg.Overlay.Encap), Port: cfg.Overlay.Port,
	}
}
