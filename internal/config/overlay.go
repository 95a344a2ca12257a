package config

import (
	"errors"
	"fmt"
)

// Overlay is the configuration of the tunnels between nodes.
type Overlay struct {
	Enabled bool
	Type    OverlayType
	Encap   OverlayEncap
	// Port is the UDP port of FoU and VXLAN.
	Port uint16
}

// OverlayType says to which nodes Pods' packets go through tunnels.
type OverlayType string

// The types: see the flag's help.
const (
	OverlaySubnet OverlayType = "subnet"
	OverlayFull   OverlayType = "full"
)

// OverlayEncap is how a tunnel wraps packets.
type OverlayEncap string

// The encapsulations: see the flag's help.
const (
	OverlayIPIP  OverlayEncap = "ipip"
	OverlayFoU   OverlayEncap = "fou"
	OverlayVXLAN OverlayEncap = "vxlan"
)

const (
	fouPort   = 5555 // what clusters use
	vxlanPort = 4789 // IANA's (RFC 7348)
)

func (f *flags) defineOverlay(c *Config) {
	f.section("Overlay")
	addBool(f, &c.Overlay.Enabled, "enable-overlay", false,
		"Send pods' packets to nodes of other subnets through tunnels. Not needed where the routers between know the pods' networks.")
	add(f, &c.Overlay.Type, "overlay-type", OverlaySubnet, overlayType(),
		"subnet: tunnels to nodes of other subnets only. full: to all nodes.")
	add(f, &c.Overlay.Encap, "overlay-encap", OverlayIPIP, overlayEncap(),
		"How tunnels wrap packets. ipip: in IP, the least overhead. fou: the same in UDP (GUE), for networks that let nothing else pass. "+
			"vxlan: Ethernet in UDP. All nodes must have the same.")
	add(f, &c.Overlay.Port, "overlay-encap-port", fouPort, unprivilegedPort(),
		"UDP port of fou and vxlan, the same on all nodes. vxlan without this flag has 4789.")
}

// setOverlay completes the configuration of the overlay.
func (f *flags) setOverlay(c *Config) {
	if c.Overlay.Encap == OverlayVXLAN && !f.set.Changed("overlay-encap-port") {
		c.Overlay.Port = vxlanPort
	}
	for _, name := range []string{"overlay-type", "overlay-encap", "overlay-encap-port"} {
		if f.set.Changed(name) && !c.Overlay.Enabled {
			c.Warnings = append(c.Warnings, "--"+name+" has no effect without --enable-overlay=true")
		}
	}
}

func overlayType() kind[OverlayType] {
	return kind[OverlayType]{"subnet|full", func(s string) (OverlayType, error) {
		if t := OverlayType(s); t == OverlaySubnet || t == OverlayFull {
			return t, nil
		}
		return "", errors.New("not a type of overlay; allowed are subnet (tunnels to other subnets) and full (tunnels to all nodes); the kind of tunnel is --overlay-encap")
	}, func(t OverlayType) string { return string(t) }}
}

func overlayEncap() kind[OverlayEncap] {
	return kind[OverlayEncap]{"ipip|fou|vxlan", func(s string) (OverlayEncap, error) {
		if e := OverlayEncap(s); e == OverlayIPIP || e == OverlayFoU || e == OverlayVXLAN {
			return e, nil
		}
		return "", errors.New("not an encapsulation; allowed are ipip, fou and vxlan")
	}, func(e OverlayEncap) string { return string(e) }}
}

func unprivilegedPort() kind[uint16] {
	const lowest = 1024
	return kind[uint16]{"port", func(s string) (uint16, error) {
		n, err := parsePort(s, lowest)
		if err != nil {
			return 0, fmt.Errorf("%w, where no service of the host is", err)
		}
		return n, nil
	}, formatPort}
}
