package app

import (
	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/peering"
)

// peeringConfig is what the flags say of whom to speak BGP with.
func peeringConfig(cfg config.Config) peering.Config {
	return peering.Config{
		Families: cfg.Families(), ASN: cfg.BGP.ASN, Port: cfg.BGP.Port, Between: true, FullMesh: cfg.BGP.NodesFullMesh,
		RouterID: cfg.BGP.RouterID, GenerateRouterID: cfg.BGP.GenerateRouterID,
	}
}
