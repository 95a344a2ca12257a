package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fake is a speaker in memory, with the methods of Speaker. Tests say what its
// peers do. It refuses what Speaker refuses, and is safe for concurrent use.
type Fake struct {
	config Config

	mu         sync.Mutex
	peers      map[netip.Addr]*PeerState
	advertised map[netip.Prefix]netip.Addr
	learned    map[netip.Prefix]map[netip.Addr]netip.Addr // by peer
	policy     Policy
	audience   map[netip.Prefix]Audience
	sessions   int
	moved      bool // the role has changed since SetPeers
	stopped    bool
}

// StartFake is Start for a Fake. An address to listen on that is in the
// documentation's range (RFC 5737) is refused, as one that no link has.
func StartFake(config Config) (*Fake, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	for _, a := range config.Listen {
		if netip.MustParsePrefix("192.0.2.0/24").Contains(a) {
			return nil, fmt.Errorf("BGP on %v port %d: cannot assign requested address", config.Listen, config.Port)
		}
	}
	return &Fake{
		config: config, peers: map[netip.Addr]*PeerState{},
		advertised: map[netip.Prefix]netip.Addr{}, learned: map[netip.Prefix]map[netip.Addr]netip.Addr{},
	}, nil
}

// Config is what the Fake was started with, and what SetCluster made of it.
func (f *Fake) Config() Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config
}

// SetCluster is Speaker.SetCluster.
func (f *Fake) SetCluster(cluster netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return errStopped
	}
	if f.config.ClusterID != cluster {
		f.moved = !f.moved
	}
	f.config.ClusterID = cluster
	return nil
}

// SetPeers is Speaker.SetPeers.
func (f *Fake) SetPeers(peers []Peer) error {
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return errStopped
	}
	want, err := f.config.usable(peers)
	for addr, p := range want {
		if have := f.peers[addr]; have == nil || !sameSession(have.Peer, p) || f.moved && p.Role != External && p.ASN == f.config.ASN {
			f.peers[addr] = &PeerState{Peer: p, State: "Active"}
			f.sessions++
		} else {
			have.Role = p.Role
		}
	}
	f.moved = false
	var gone []netip.Addr
	for addr := range f.peers {
		if _, ok := want[addr]; !ok {
			delete(f.peers, addr)
			gone = append(gone, addr)
		}
	}
	f.mu.Unlock()
	for _, addr := range gone {
		f.drop(addr)
	}
	return err
}

// Advertise is Speaker.Advertise.
func (f *Fake) Advertise(routes []Route) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return errStopped
	}
	clear(f.advertised)
	f.audience = map[netip.Prefix]Audience{}
	var errs []error
	for _, r := range routes {
		if !r.Prefix.IsValid() || !r.NextHop.IsValid() {
			errs = append(errs, fmt.Errorf("BGP: advertise %s via %s: invalid", r.Prefix, r.NextHop))
			continue
		}
		if r.To == 0 {
			continue // to nobody
		}
		f.advertised[r.Prefix.Masked()] = r.NextHop
		f.audience[r.Prefix.Masked()] = r.To
	}
	return errors.Join(errs...)
}

// SetPolicy is Speaker.SetPolicy.
func (f *Fake) SetPolicy(p Policy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return errStopped
	}
	f.policy = p
	return nil
}

// Policy is what SetPolicy was last told.
func (f *Fake) Policy() Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.policy
}

// Audience is who is told of an advertised prefix.
func (f *Fake) Audience(prefix netip.Prefix) Audience {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.audience[prefix.Masked()]
}

// NextHops is Speaker.NextHops.
func (f *Fake) NextHops(prefix netip.Prefix) []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.nextHops(prefix)
}

func (f *Fake) nextHops(prefix netip.Prefix) []netip.Addr {
	var hops []netip.Addr
	for _, hop := range f.learned[prefix] {
		hops = append(hops, hop)
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	return slices.Compact(hops)
}

// Learned is Speaker.Learned.
func (f *Fake) Learned() map[netip.Prefix][]netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[netip.Prefix][]netip.Addr{}
	for prefix := range f.learned {
		all[prefix] = f.nextHops(prefix)
	}
	return all
}

// Peers is Speaker.Peers.
func (f *Fake) Peers() []PeerState {
	f.mu.Lock()
	defer f.mu.Unlock()
	var states []PeerState
	for _, p := range f.peers {
		states = append(states, *p)
	}
	slices.SortFunc(states, func(a, b PeerState) int { return a.Addr.Compare(b.Addr) })
	return states
}

// Unsettled is Speaker.Unsettled.
func (f *Fake) Unsettled() []netip.Addr {
	var waiting []netip.Addr
	for _, p := range f.Peers() {
		if !p.Settled {
			waiting = append(waiting, p.Addr)
		}
	}
	return waiting
}

// Stop is Speaker.Stop.
func (f *Fake) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
}

// Stopped says whether Stop was called.
func (f *Fake) Stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped
}

// Sessions is how many sessions were ever configured anew.
func (f *Fake) Sessions() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions
}

// Establish brings a session up. Routes may be delivered from then on.
func (f *Fake) Establish(peer netip.Addr) {
	f.update(peer, func(p *PeerState) { p.State, p.Since = established, time.Now() })
}

// Settle says that a peer has delivered its table.
func (f *Fake) Settle(peer netip.Addr) { f.update(peer, func(p *PeerState) { p.Settled = true }) }

// Break ends a session: what the peer sent is withdrawn.
func (f *Fake) Break(peer netip.Addr, reason string) {
	f.update(peer, func(p *PeerState) { *p = PeerState{Peer: p.Peer, State: "Idle", LastError: reason} })
	f.drop(peer)
}

// Exceed makes a peer send more prefixes than it may, which ends its session.
func (f *Fake) Exceed(peer netip.Addr) {
	const why = "the peer sent more prefixes than it may"
	if f.config.OnLimit != nil {
		f.config.OnLimit(peer, fmt.Sprintf("BGP peer %s: %s", peer, why))
	}
	f.Break(peer, why)
}

func (f *Fake) update(peer netip.Addr, change func(*PeerState)) {
	f.mu.Lock()
	p := f.peers[peer]
	if p != nil {
		change(p)
	}
	f.mu.Unlock()
	if p != nil && f.config.OnPeer != nil {
		f.config.OnPeer(peer)
	}
}

func (f *Fake) drop(peer netip.Addr) {
	f.mu.Lock()
	var prefixes []netip.Prefix
	for prefix, paths := range f.learned {
		if _, ok := paths[peer]; ok {
			prefixes = append(prefixes, prefix)
		}
	}
	f.mu.Unlock()
	for _, prefix := range prefixes {
		f.Deliver(peer, prefix, netip.Addr{})
	}
}

// Deliver makes a peer send a route, or withdraw it where hop is invalid.
// Routes of peers without an established session are ignored.
func (f *Fake) Deliver(peer netip.Addr, prefix netip.Prefix, hop netip.Addr) {
	f.mu.Lock()
	if p := f.peers[peer]; hop.IsValid() && (p == nil || !p.Established()) || f.stopped {
		f.mu.Unlock()
		return
	}
	switch {
	case !hop.IsValid():
		delete(f.learned[prefix], peer)
		if len(f.learned[prefix]) == 0 {
			delete(f.learned, prefix)
		}
	case f.learned[prefix] == nil:
		f.learned[prefix] = map[netip.Addr]netip.Addr{peer: hop}
	default:
		f.learned[prefix][peer] = hop
	}
	f.mu.Unlock()
	if f.config.OnRoute != nil {
		f.config.OnRoute(prefix)
	}
}

// String is what the Fake was told, a line for each peer and advertisement.
func (f *Fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, p := range f.peers {
		how := "dial"
		if p.Passive {
			how = "wait for"
		}
		lines = append(lines, fmt.Sprintf("%s %s port %d as %d from %s\n", how, p.Addr, p.Port, p.ASN, p.Local))
	}
	for prefix, hop := range f.advertised {
		lines = append(lines, fmt.Sprintf("advertise %s via %s\n", prefix, hop))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
