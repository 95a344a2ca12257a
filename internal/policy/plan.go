package policy

import (
	"net/netip"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// plan is what all policies together want of the kernel in one family. It is a
// function of the state, kept up to date unit by unit: a policy, the group of
// Pods that the same policies isolate, a Pod's place in the tree.
type plan struct {
	config Config
	family inet.Family
	// bare says that the cluster does not have the family: Pods' strays are all
	// that rules are about.
	bare bool

	places   map[cluster.Key]place // of this node's Pods
	groups   map[string]*group     // by chain
	policies map[cluster.Key]*active
	sets     map[string]*shared
	chains   map[string][]string
	branches map[string]struct{} // the chains of top and trees
	closed   []netip.Prefix      // see top
	bridges  []string            // see top
	planted  bool                // that top and trees were made

	// fresh are the sets that are not in the kernel yet.
	fresh map[string]struct{}
	// grown says that places have changed since top and trees were made.
	grown bool
	// unguarded says that new Pods shall be closed and there is no Pod CIDR.
	unguarded bool
	// inForce are the Pods whose rules are in the kernel.
	inForce residents
	// programmed says that the kernel has followed once.
	programmed bool
}

// place is a Pod's address and the chains that judge its traffic, "" for a
// direction in which no policy isolates it.
type place struct {
	addr   netip.Addr
	chains [directions]string
}

func (p place) isolated() bool { return p.chains[ingress] != "" || p.chains[egress] != "" }

// group is Pods that the same policies isolate in a direction.
type group struct {
	direction direction
	policies  []cluster.Key
	members   int
}

// active is a policy that isolates a Pod of this node.
type active struct {
	groups   int // that it is in
	compiled *compiled
}

// shared is a set, and how many policies match it.
type shared struct {
	definition
	users int
}

func newPlan(c Config, f inet.Family) *plan {
	return &plan{
		config: c, family: f,
		places: map[cluster.Key]place{}, groups: map[string]*group{}, policies: map[cluster.Key]*active{},
		sets: map[string]*shared{}, chains: map[string][]string{}, branches: map[string]struct{}{},
		fresh: map[string]struct{}{},
	}
}

// update brings the plan up to date with the state, but for what top makes.
// What is not needed any more goes last, so that what moves is not made anew.
func (p *plan) update(s *state, d dirt) {
	stale := d.policies
	if d.all {
		stale = p.everyPolicy()
	}
	var left []string
	p.podsToPlace(s, d, func(pod cluster.Key) { left = append(left, p.move(s, pod)...) })
	for key := range stale {
		if a := p.policies[key]; a != nil && a.groups > 0 {
			p.compile(s, key, a)
		}
	}
	for _, chain := range left {
		p.leave(chain)
	}
}

func (p *plan) everyPolicy() map[cluster.Key]struct{} {
	all := make(map[cluster.Key]struct{}, len(p.policies))
	for key := range p.policies {
		all[key] = struct{}{}
	}
	return all
}

// podsToPlace calls fn for those that changed, and those that a changed policy
// selects anew, or no more.
func (p *plan) podsToPlace(s *state, d dirt, fn func(cluster.Key)) {
	if d.all {
		p.everyPod(s, fn)
		return
	}
	for key := range d.pods {
		fn(key)
	}
	for policy := range d.policies {
		for key, pod := range s.local[policy.Namespace] {
			if p.moves(s, pod, policy) {
				fn(key)
			}
		}
	}
}

func (p *plan) everyPod(s *state, fn func(cluster.Key)) {
	for key := range p.places {
		if s.local[key.Namespace][key] == nil {
			fn(key)
		}
	}
	if len(p.places) == 0 {
		count := 0
		for _, some := range s.local {
			count += len(some)
		}
		p.places = make(map[cluster.Key]place, count)
	}
	for _, some := range s.local {
		for key := range some {
			fn(key)
		}
	}
}

// moves says whether a policy isolates a Pod that it did not, or the reverse.
func (p *plan) moves(s *state, pod *cluster.Pod, key cluster.Key) bool {
	policy := s.policy(key)
	selected := policy != nil && policy.Pods.Matches(pod.Labels)
	for d := range directions {
		was := false
		if g := p.groups[p.places[pod.Key].chains[d]]; g != nil {
			_, was = slices.BinarySearchFunc(g.policies, key, compareKeys)
		}
		if was != (selected && isolates(policy, d)) {
			return true
		}
	}
	return false
}

// move gives a Pod the place that is its now and returns the chains of groups
// that it leaves.
func (p *plan) move(s *state, key cluster.Key) (left []string) {
	now, keys := p.placeOf(s, key)
	before := p.places[key]
	if now == before {
		return nil
	}
	p.grown = true
	for d := range directions {
		if now.chains[d] == before.chains[d] {
			continue
		}
		if now.chains[d] != "" {
			p.join(s, now.chains[d], d, keys[d])
		}
		if before.chains[d] != "" {
			left = append(left, before.chains[d])
		}
	}
	if now.addr.IsValid() {
		p.places[key] = now
	} else {
		delete(p.places, key)
	}
	return left
}

func (p *plan) placeOf(s *state, key cluster.Key) (now place, keys [directions][]cluster.Key) {
	pod := s.local[key.Namespace][key]
	if pod == nil {
		return place{}, keys
	}
	if now.addr = podIP(pod, p.family); !now.addr.IsValid() || p.bare {
		return place{}, keys
	}
	keys = s.isolating(pod)
	for d := range directions {
		if len(keys[d]) > 0 {
			now.chains[d] = groupChain(keys[d], d)
		}
	}
	return now, keys
}

func (p *plan) join(s *state, chain string, d direction, keys []cluster.Key) {
	g := p.groups[chain]
	if g == nil {
		g = &group{direction: d, policies: keys}
		p.groups[chain] = g
		p.chains[chain] = verdicts(d, keys, p.family)
		for _, key := range keys {
			p.activate(s, key)
		}
	}
	g.members++
}

func (p *plan) activate(s *state, key cluster.Key) {
	a := p.policies[key]
	if a == nil {
		a = &active{}
		p.policies[key] = a
		p.compile(s, key, a)
	}
	a.groups++
}

// leave takes a Pod out of a group. The last one takes the group with it, and
// that its policies.
func (p *plan) leave(chain string) {
	g := p.groups[chain]
	if g.members--; g.members > 0 {
		return
	}
	delete(p.groups, chain)
	delete(p.chains, chain)
	for _, key := range g.policies {
		a := p.policies[key]
		if a.groups--; a.groups > 0 {
			continue
		}
		delete(p.policies, key)
		for d := range directions {
			delete(p.chains, policyChain(key, d))
		}
		p.release(a.compiled)
	}
}

// compile compiles a policy anew. One that is gone keeps its chains until its
// groups have left.
func (p *plan) compile(s *state, key cluster.Key, a *active) {
	policy := s.policy(key)
	if policy == nil {
		return
	}
	before := a.compiled
	a.compiled = compilePolicy(policy, p.family)
	for name, d := range a.compiled.sets {
		if p.sets[name] == nil {
			p.sets[name] = &shared{definition: d}
			p.fresh[name] = struct{}{}
		}
		p.sets[name].users++
	}
	for d := range directions {
		rules := a.compiled.rules[d]
		if rules == nil && (before == nil || before.rules[d] == nil) {
			continue
		}
		switch name := policyChain(key, d); {
		case rules == nil:
			delete(p.chains, name)
		case !slices.Equal(rules, p.chains[name]) || p.chains[name] == nil:
			p.chains[name] = rules
		}
	}
	p.release(before)
}

// release lets the sets of a compiled policy go.
func (p *plan) release(c *compiled) {
	if c == nil {
		return
	}
	for name := range c.sets {
		set := p.sets[name]
		if set.users--; set.users == 0 {
			delete(p.sets, name)
			delete(p.fresh, name)
		}
	}
}

// closing are the Pod CIDRs in which Pods that are not known are closed.
func (p *plan) closing(s *state) []netip.Prefix {
	p.unguarded = false
	if p.bare || p.config.NewPods == Open || p.config.NewPods == Selected && !s.awaited() {
		return nil
	}
	var closed []netip.Prefix
	for _, cidr := range s.podCIDRs {
		if inet.FamilyOf(cidr.Addr()) == p.family {
			closed = append(closed, cidr.Masked())
		}
	}
	p.unguarded = len(closed) == 0
	return closed
}

// residents are the Pods of this node. An address of its Pod CIDRs that a Pod
// of another node has counts as known: there the CIDRs do not tell whose an
// address is.
func (p *plan) residents(s *state) residents {
	r := residents{local: make(map[netip.Addr]cluster.Key, len(p.places)), isolated: map[netip.Addr]struct{}{}}
	for addr, pod := range s.strangers {
		if inet.FamilyOf(addr) == p.family {
			r.local[addr] = pod
		}
	}
	for pod, place := range p.places {
		r.local[place.addr] = pod
		if place.isolated() {
			r.isolated[place.addr] = struct{}{}
		}
	}
	return r
}

// missing are the sets that the kernel does not have yet, filled.
func (p *plan) missing(s *state) map[string]ipset.Set {
	sets := make(map[string]ipset.Set, len(p.fresh))
	for name := range p.fresh {
		sets[name] = p.sets[name].fill(s, p.family)
	}
	return sets
}

// edit is what becomes of some entries of a set.
type edit struct{ present, absent []ipset.Entry }

// edits says what belongs into the sets of some addresses now.
func (p *plan) edits(s *state, addrs []netip.Addr) map[string]edit {
	edits := map[string]edit{}
	for name, set := range p.sets {
		if _, fresh := p.fresh[name]; fresh || set.blocks != nil {
			continue // it will be filled, or never changes
		}
		var e edit
		for _, addr := range addrs {
			if inet.FamilyOf(addr) == p.family {
				present, absent := set.at(s, addr)
				e.present, e.absent = append(e.present, present...), append(e.absent, absent...)
			}
		}
		if len(e.present)+len(e.absent) > 0 {
			edits[name] = e
		}
	}
	return edits
}
