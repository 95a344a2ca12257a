package routes

import (
	"net/netip"
)

// step is one of the things that the controller keeps right. They are worked
// on in this order: what is later may need what is earlier.
type step uint8

const (
	stepLinks     step = iota // the host's networks
	stepSelf                  // who this node is, and the speaker
	stepPlatform              // modules, sysctls, the bridge
	stepSets                  // IP sets
	stepRules                 // iptables
	stepCNI                   // the CNI configuration
	stepVIPs                  // addresses of Services to tell
	stepAdvertise             // what BGP originates
	stepPeers                 // whom BGP speaks with
	stepTunnels               // tunnels to other nodes
	stepRoute                 // one learned prefix in the kernel
	stepSweep                 // routes of a former run
	stepRepair                // read the routes back and repair
	stepResync                // read back and repair everything
	steps                     // their number
)

var stepNames = [steps]string{
	"links", "node", "platform", "ipsets", "iptables", "cni", "service addresses", "advertisements", "peers", "tunnels", "route", "sweep", "repair", "resync",
}

// key is a dirty step; prefix belongs to stepRoute.
type key struct {
	step   step
	prefix netip.Prefix
}

// String is "iptables" or "route 10.244.2.0/24".
func (k key) String() string {
	if k.step == stepRoute {
		return stepNames[k.step] + " " + k.prefix.String()
	}
	return stepNames[k.step]
}
