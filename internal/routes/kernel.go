package routes

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// program brings the kernel's routes to the keys' prefixes up to date with
// what was learned. It returns the error of each prefix that failed.
func (c *Controller) program(keys []key) map[netip.Prefix]error {
	speaker := c.speaking()
	if speaker == nil {
		return nil // the next speaker learns anew
	}
	me := c.identity()
	changes := make(map[route.Key]*route.Route, len(keys))
	for _, k := range keys {
		r, reason := compileRoute(k.prefix, speaker.NextHops(k.prefix), me, c.links, c.tunnels)
		if r != nil && c.ofService(k.prefix) {
			r, reason = nil, "an address of a Service of this cluster"
		}
		if c.discarded[k.prefix] {
			r, reason = &route.Route{Key: route.Key{Table: route.Main, Dst: k.prefix}, Type: route.Unreachable}, ""
		}
		changes[route.Key{Table: route.Main, Dst: k.prefix}] = r
		c.note(k.prefix, r, reason)
	}
	failed := map[netip.Prefix]error{}
	for k, err := range c.routes.Set(changes) {
		failed[k.Dst] = err
	}
	return failed
}

// note keeps what the status shows of a prefix, and logs one that cannot be
// used when that begins.
func (c *Controller) note(prefix netip.Prefix, r *route.Route, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r != nil {
		c.desired[prefix] = *r
	} else {
		delete(c.desired, prefix)
	}
	if reason == "" {
		delete(c.unusable, prefix)
		return
	}
	if c.unusable[prefix] != reason {
		c.log.Warn("routes: learned route not used", "prefix", prefix, "because", reason)
	}
	c.unusable[prefix] = reason
}

// sweep removes the routes that a former run left and that no peer confirmed,
// once every peer has delivered its table, or had the time to.
func (c *Controller) sweep() error {
	speaker := c.speaking()
	if speaker == nil || !c.done[stepPeers] {
		return errLater
	}
	c.mu.Lock()
	swept, spoke := c.swept, c.spoke
	c.mu.Unlock()
	if swept {
		return nil
	}
	if waiting := speaker.Unsettled(); len(waiting) > 0 && time.Since(spoke) < c.config.RestartTime {
		return fmt.Errorf("%w: routes of the former run stay until all peers have sent theirs: waiting for %s", reconcile.ErrWaiting, some(waiting))
	}
	if c.tooEarly() {
		return errLater
	}
	// Learned goes first: what comes between is marked, and programmed next.
	learned := speaker.Learned()
	failed := c.routes.Retain(func(k route.Key) bool {
		_, known := learned[k.Dst]
		_, wanted := c.desired[k.Dst]
		return known || wanted
	})
	for k, err := range failed {
		return fmt.Errorf("removing the stale route to %s: %w", k.Dst, err)
	}
	c.mu.Lock()
	c.swept = true
	c.mu.Unlock()
	c.queue.Mark(key{step: stepTunnels}) // those of a former run go now
	return nil
}

// tooEarly says whether what a former run left is to stay a little: a peer may
// have delivered its table and hear of the rest only now, as reflectors do that
// restart, or whose clients do.
func (c *Controller) tooEarly() bool {
	if !c.left {
		return false
	}
	if c.settled.IsZero() {
		c.settled = time.Now()
	}
	rest := c.config.SettleTime - time.Since(c.settled)
	if rest > 0 {
		time.AfterFunc(rest, func() { c.queue.Mark(key{step: stepSweep}) })
	}
	return rest > 0
}

// some lists a few addresses.
func some(addrs []netip.Addr) string {
	const few = 5
	if len(addrs) <= few {
		return fmt.Sprint(addrs)
	}
	return fmt.Sprintf("%v and %d more", slices.Clone(addrs[:few]), len(addrs)-few)
}
