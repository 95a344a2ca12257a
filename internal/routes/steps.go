package routes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/cni"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/link"
)

var (
	errNotRead = errors.New("the kernel's routes and IP sets could not be read yet")
	// errLater is what a step returns that another one marks when it is time.
	errLater      = errors.New("not yet")
	errNoPolicies = errors.New("waiting for the policies to be in force, so that no Pod starts before they are: the policy controller says what it waits for")
)

// load reads the kernel's routes once, so that those that are right already
// are adopted. Its IP sets tell that an agent ran here before: they come with
// every run, and outlive it but not the host's. Routes do not, where nothing was
// learned, and the bridge may be one that the CNI plugin made after a boot.
func (c *Controller) load() bool {
	if c.loaded {
		return true
	}
	if err := errors.Join(c.routes.Load(), c.detours.Load(), c.sets.Load()); err != nil {
		if !c.reported[err.Error()] {
			c.reported[err.Error()] = true
			c.log.Warn("routes: cannot begin", "err", err)
		}
		return false
	}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} { // the enabled ones may have been others
		_, there := c.sets.Held(setName(podSubnets, f))
		c.former = c.former || there
	}
	c.loaded = true
	return true
}

// readLinks reads the host's networks. Other networks mean other routes.
func (c *Controller) readLinks() error {
	links, err := c.drivers.Links.Addrs()
	if err != nil {
		return fmt.Errorf("reading the host's addresses: %w", err)
	}
	links = slices.DeleteFunc(links, func(l link.Addr) bool {
		return !l.Prefix.Addr().IsGlobalUnicast() || l.Link == Bridge || // Pods come and go there
			slices.Contains(c.config.Predecessors, l.Link) // and Services there
	})
	if slices.Equal(links, c.links) {
		return nil
	}
	c.links = links
	c.mu.Lock()
	c.vips.allDirty() // an address of this host is not told as a Service's
	c.mu.Unlock()
	c.queue.Mark(key{step: stepSelf}, key{step: stepVIPs}, key{step: stepAdvertise}, key{step: stepTunnels})
	c.markLearned()
	return nil
}

// markLearned marks all that was learned, because what it is compiled with
// changed.
func (c *Controller) markLearned() {
	speaker := c.speaking()
	if speaker == nil {
		return
	}
	for prefix := range speaker.Learned() {
		c.queue.Mark(key{stepRoute, prefix})
	}
}

// findSelf reads who this node is, and has the speaker speak as that.
func (c *Controller) findSelf() error {
	before, node := c.identity(), c.present()[c.config.NodeName]
	if node == nil {
		return fmt.Errorf("waiting for the Node object %s: the kubelet creates it; --hostname-override must be its name", c.config.NodeName)
	}
	fromFile, fileErr := c.file.PodCIDRs()
	me, err := identify(node, c.config.Families, fromFile)
	if err != nil {
		return err
	}
	home, err := c.drivers.Links.Find(me.primary)
	if errors.Is(err, link.ErrNotFound) {
		return fmt.Errorf("no link of this host has the address %s of Node %s: set the kubelet's --node-ip", me.primary, me.name)
	}
	if err != nil {
		return err
	}
	me.mtu = home.MTU
	if err := c.speakAs(node); err != nil {
		return err
	}
	if me != before {
		c.reportMove(node, before, me)
		c.become(me)
	}
	if len(me.podCIDRs()) == 0 {
		return c.noPodCIDR(node, fileErr)
	}
	return nil
}

// reportMove tells that the Node is not what it was.
func (c *Controller) reportMove(node *cluster.Node, before, now self) {
	if before.primary.IsValid() && before.primary != now.primary {
		c.events.Warn("Node", &node.Meta, "AddressChanged", fmt.Sprintf(
			"The node's address changed from %s to %s: its BGP sessions start anew", before.primary, now.primary))
	}
	if was := before.podCIDRs(); len(was) > 0 && before.cidr != now.cidr {
		c.events.Warn("Node", &node.Meta, "PodCIDRChanged", fmt.Sprintf(
			"The Pod CIDRs changed from %v to %v: Pods that run keep their addresses, and other nodes cannot reach them until they are restarted", was, now.podCIDRs()))
	}
}

// become marks everything that depends on who this node is.
func (c *Controller) become(me self) {
	c.mu.Lock()
	c.me = me
	c.vips.allDirty()
	c.mu.Unlock()
	c.log.Info("routes: this node", "node", me.name, "address", me.primary, "podCIDRs", me.podCIDRs(), "mtu", me.mtu)
	for _, s := range []step{stepPlatform, stepSets, stepCNI, stepVIPs, stepAdvertise, stepPeers, stepTunnels} {
		c.queue.Mark(key{step: s})
	}
	c.markLearned()
}

func (c *Controller) noPodCIDR(node *cluster.Node, fileErr error) error {
	const message = "has no Pod CIDR: run the controller manager with --allocate-node-cidrs, or give the subnet in the CNI configuration"
	c.events.Warn("Node", &node.Meta, "NoPodCIDR", "The Node "+message)
	return errors.Join(fmt.Errorf("node %s %s %s", node.Name, message, c.file.Path()), fileErr)
}

// preparePlatform makes the kernel ready for Pods.
func (c *Controller) preparePlatform(ctx context.Context) error {
	me := c.identity()
	if !me.primary.IsValid() {
		return errLater
	}
	moduleErr := c.drivers.Modules("br_netfilter")
	var errs []error
	if _, err := c.drivers.Links.EnsureBridge(ctx, Bridge, c.config.podMTU(me)); err != nil {
		errs = append(errs, err)
	}
	err := errors.Join(append(errs, c.setParameters(parameters(c.config.Families)))...)
	if err != nil { // else the module's parameters are there, so it is, too
		err = errors.Join(moduleErr, err)
	}
	if err == nil && !c.done[stepPlatform] {
		c.queue.Mark(key{step: stepCNI})
	}
	return err
}

// setParameters sets those that have another value.
func (c *Controller) setParameters(list []parameter) error {
	var errs []error
	for _, p := range list {
		changed, err := c.drivers.Sysctl.Set(p.name, p.value)
		if changed {
			c.log.Info("routes: sysctl set", "name", p.name, "value", p.value)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// fillSets brings the sets up to date; only differences reach the kernel.
func (c *Controller) fillSets() error {
	me, nodes := c.identity(), c.present()
	all := map[string]ipset.Set{}
	for _, f := range c.config.Families {
		for name, set := range nodeSets(me, nodes, f) {
			all[name] = set
		}
	}
	if err := c.sets.PutAll(all); err != nil {
		return err
	}
	if !c.done[stepSets] {
		c.queue.Mark(key{step: stepRules})
	}
	return nil
}

// applyRules needs the sets that its rules match.
func (c *Controller) applyRules(ctx context.Context) error {
	if !c.done[stepSets] {
		return errLater
	}
	var errs []error
	for _, f := range c.config.Families {
		changed, err := c.drivers.Rules[f].Apply(ctx, section(f, c.config))
		if changed > 0 {
			c.log.Info("routes: iptables written", "family", f.String(), "chainsAndJumps", changed)
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if err == nil && !c.done[stepRules] {
		c.queue.Mark(key{step: stepCNI})
	}
	return err
}

// lookForDirectory is how often a missing CNI directory is looked for.
const lookForDirectory = 2 * time.Second

// awaitPolicies marks what waits for the policies.
func (c *Controller) awaitPolicies(ctx context.Context) {
	if c.config.Policies == nil {
		return
	}
	select {
	case <-c.config.Policies:
		c.queue.Mark(key{step: stepCNI})
	case <-ctx.Done():
	}
}

// withPolicies says whether policies are in force, or none are to be.
func (c *Controller) withPolicies() bool {
	if c.config.Policies == nil {
		return true
	}
	select {
	case <-c.config.Policies:
		return true
	default:
		return false
	}
}

// writeCNI comes last: the kubelet turns the node Ready on it. Where there is a
// file already it is so, and the file must be right.
func (c *Controller) writeCNI() error {
	if !c.config.EnableCNI {
		return nil
	}
	me := c.identity()
	if len(me.podCIDRs()) == 0 || !c.done[stepPlatform] || !c.done[stepRules] {
		return errLater
	}
	if !c.withPolicies() && !c.file.Exists() {
		return errNoPolicies
	}
	changed, err := c.file.Ensure(cni.Network{
		Bridge: Bridge, PodCIDRs: me.podCIDRs(), MTU: c.config.podMTU(me), Hairpin: c.config.Hairpin,
	})
	if errors.Is(err, cni.ErrNoDirectory) {
		time.AfterFunc(lookForDirectory, func() { c.queue.Mark(key{step: stepCNI}) })
	}
	if err != nil {
		return err
	}
	if changed {
		c.log.Info("routes: CNI configuration written", "file", c.file.Path(), "podCIDRs", me.podCIDRs())
	}
	if rivals := strings.Join(c.file.Rivals(), ", "); rivals != "" && !c.reported[rivals] {
		c.reported[rivals] = true
		c.log.Warn("routes: the container runtime takes another CNI configuration before ours; remove it if kube-router is to network the Pods",
			"ours", c.file.Path(), "before", rivals)
	}
	return nil
}

// repairRoutes reads the routes back after some may have gone.
func (c *Controller) repairRoutes() error {
	repaired, err := c.routes.Resync()
	detours, detoursErr := c.detours.Resync()
	repaired, err = repaired+detours, errors.Join(err, detoursErr)
	c.mu.Lock()
	c.repairs += uint64(repaired)
	c.mu.Unlock()
	if repaired > 0 {
		c.log.Info("routes: put back what was gone", "routes", repaired)
	}
	return err
}

// resync reads the kernel back and repairs what drifted.
func (c *Controller) resync(ctx context.Context) error {
	routes, err1 := c.routes.Resync()
	detours, err2 := c.detours.Resync()
	routes += detours
	sets, err3 := c.sets.Resync()
	errs := []error{err1, err2, err3}
	rules := 0
	for _, f := range c.config.Families {
		n, err := c.drivers.Rules[f].Resync(ctx, rulesOwner)
		rules += n
		errs = append(errs, err)
	}
	repaired := routes + sets + rules
	c.mu.Lock()
	c.repairs += uint64(repaired)
	c.lastSync = time.Now()
	c.mu.Unlock()
	if repaired > 0 {
		c.log.Info("routes: repaired what others changed", "routes", routes, "sets", sets, "rules", rules)
	}
	return errors.Join(errs...)
}
