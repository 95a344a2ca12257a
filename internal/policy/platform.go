package policy

import (
	"errors"
	"fmt"

	"github.com/kube-router/kube-router/internal/inet"
)

// bridgeModule has a bridge ask iptables about what it switches.
const bridgeModule = "br_netfilter"

// bridgeParameter is what has a bridge do so in a family
// (Documentation/networking/bridge.rst). It belongs to the network namespace.
func bridgeParameter(f inet.Family) string {
	if f == inet.IPv6 {
		return "net/bridge/bridge-nf-call-ip6tables"
	}
	return "net/bridge/bridge-nf-call-iptables"
}

// preparePlatform has the rules see what Pods of this node send each other over
// a bridge, whoever made it: without that, these Pods would not be isolated
// from each other, and nothing would show it. A module that could not be loaded
// is only told of where its parameters are missing: it may be built in, or the
// container may lack /lib/modules while the host has it.
func (c *Controller) preparePlatform() error {
	moduleErr := c.modules(bridgeModule)
	var errs []error
	for _, f := range c.families() {
		if p := c.plans[f]; !p.bare || len(p.chains) > 0 {
			errs = append(errs, c.askOnBridges(f))
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		c.prepared = true
		return nil
	}
	return fmt.Errorf("policies do not hold between pods of one bridge: %w", errors.Join(err, moduleErr))
}

// askOnBridges has bridges ask the rules of a family.
func (c *Controller) askOnBridges(f inet.Family) error {
	name := bridgeParameter(f)
	changed, err := c.sysctl.Set(name, "1")
	if changed {
		c.log.Info("policy: sysctl set", "name", name, "value", "1")
	}
	return err
}
