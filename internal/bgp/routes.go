package bgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// source tells apart the paths to one prefix: who sent it, and its path
// identifier where the peer sends several (RFC 7911).
type source struct {
	peer netip.Addr
	id   uint32
}

// Advertise makes routes the ones that are originated. Those that stay as they
// are cause no message. Its error joins one for each route that failed;
// calling again tries those.
func (s *Speaker) Advertise(routes []Route) error {
	unlock, err := s.changing()
	if err != nil {
		return err
	}
	defer unlock()
	want := map[netip.Prefix]Route{}
	for _, r := range routes {
		if r.Prefix = r.Prefix.Masked(); r.To&(ToNodes|ToExternal) != 0 {
			want[r.Prefix] = r
		}
	}
	d := reconcile.Diff(s.originated(), want, func(a, b Route) bool { return a == b })
	var errs []error
	for _, prefix := range slices.Concat(d.Add, d.Change) {
		errs = append(errs, s.originate(want[prefix]))
	}
	for _, prefix := range d.Remove {
		errs = append(errs, s.withdraw(prefix))
	}
	return errors.Join(errs...)
}

func (s *Speaker) originated() map[netip.Prefix]Route {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.advertised)
}

func (s *Speaker) originate(r Route) error {
	path, err := localPath(r)
	if err == nil {
		_, err = s.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
	}
	if err != nil {
		return fmt.Errorf("BGP: advertise %s via %s: %w", r.Prefix, r.NextHop, err)
	}
	s.mu.Lock()
	s.advertised[r.Prefix] = r
	s.missed.changed(r.Prefix, false, time.Now())
	s.mu.Unlock()
	s.log.Info("BGP route advertised", "prefix", r.Prefix, "nexthop", r.NextHop, "to", r.To)
	return nil
}

func (s *Speaker) withdraw(prefix netip.Prefix) error {
	s.mu.Lock()
	r := s.advertised[prefix]
	s.mu.Unlock()
	path, err := localPath(r)
	if err == nil {
		err = s.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}})
	}
	if err != nil {
		return fmt.Errorf("BGP: withdraw %s: %w", prefix, err)
	}
	s.mu.Lock()
	delete(s.advertised, prefix)
	s.missed.changed(prefix, true, time.Now())
	s.mu.Unlock()
	s.log.Info("BGP route withdrawn", "prefix", prefix)
	return nil
}

// localPath is a path of our own. IPv6 destinations, and IPv4 ones with an
// IPv6 next hop (RFC 8950), travel in MP_REACH_NLRI, which GoBGP builds.
func localPath(r Route) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(r.Prefix)
	if err != nil {
		return nil, err
	}
	hop, err := bgp.NewPathAttributeNextHop(r.NextHop)
	if err != nil {
		return nil, err
	}
	return &apiutil.Path{
		Family: family(inet.FamilyOf(r.Prefix.Addr())),
		Nlri:   nlri,
		Attrs: []bgp.PathAttributeInterface{
			bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP), hop,
			bgp.NewPathAttributeLocalPref(originPreference(r.To)),
		},
		Age: time.Now().Unix(),
	}, nil
}

// NextHops returns the next hops of the best paths to a prefix, in order, or
// nil where peers know none (or we originate it).
func (s *Speaker) NextHops(prefix netip.Prefix) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return nextHops(s.learned[prefix])
}

// Learned returns every prefix with the next hops of its best paths.
func (s *Speaker) Learned() map[netip.Prefix][]netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[netip.Prefix][]netip.Addr, len(s.learned))
	for prefix, paths := range s.learned {
		all[prefix] = nextHops(paths)
	}
	return all
}

func nextHops(paths map[source]netip.Addr) []netip.Addr {
	hops := slices.SortedFunc(maps.Values(paths), netip.Addr.Compare)
	return slices.Compact(hops)
}

// watch follows GoBGP's events. One stream carries them all, so that an
// End-of-RIB comes after the routes before it.
func (s *Speaker) watch(ctx context.Context) error {
	return s.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnBestPath:   func(paths []*apiutil.Path, _ time.Time) { s.pathsChanged(paths) },
		OnPathEor:    func(p *apiutil.Path, _ time.Time) { s.endOfRIB(p.PeerAddress, p.Family) },
		OnPeerUpdate: func(p *apiutil.WatchEventMessage_PeerEvent, _ time.Time) { s.peerChanged(p) },
	}, server.WatchBestPath(false), server.WatchEor(false), server.WatchPeer())
}

// pathsChanged takes note of best paths that came or went.
func (s *Speaker) pathsChanged(paths []*apiutil.Path) {
	var changed []netip.Prefix
	s.mu.Lock()
	if s.stopped { // the withdrawals of our own Stop are no news
		s.mu.Unlock()
		return
	}
	for _, p := range paths {
		if prefix, ok := s.pathChanged(p); ok {
			if s.config.ClusterID.IsValid() { // others are told of it
				s.heard()
				s.missed.changed(prefix, len(s.learned[prefix]) == 0, time.Now())
			}
			changed = append(changed, prefix)
		}
	}
	s.mu.Unlock()
	if s.config.OnRoute == nil {
		return
	}
	for _, prefix := range changed {
		s.config.OnRoute(prefix)
	}
}

// pathChanged notes one path and says whether the next hops of its prefix are
// different now. The caller holds the lock.
func (s *Speaker) pathChanged(p *apiutil.Path) (netip.Prefix, bool) {
	nlri, ok := p.Nlri.(*bgp.IPAddrPrefix)
	if !ok || !p.PeerAddress.IsValid() { // another family, or a path of our own
		return netip.Prefix{}, false
	}
	prefix, from := nlri.Prefix.Masked(), source{p.PeerAddress, p.RemoteID}
	hop := nextHopOf(p.Attrs)
	before, had := s.learned[prefix][from]
	if p.Withdrawal || !hop.IsValid() {
		if had {
			s.accepted.add(p.PeerAddress, p.Family, false)
		}
		delete(s.learned[prefix], from)
		if len(s.learned[prefix]) == 0 {
			delete(s.learned, prefix)
		}
		return prefix, had
	}
	if s.learned[prefix] == nil {
		s.learned[prefix] = map[source]netip.Addr{}
	}
	s.learned[prefix][from] = hop
	if !had {
		s.within(p.PeerAddress, s.accepted.add(p.PeerAddress, p.Family, true))
	}
	return prefix, !had || before != hop
}

func nextHopOf(attrs []bgp.PathAttributeInterface) netip.Addr {
	for _, a := range attrs {
		switch a := a.(type) {
		case *bgp.PathAttributeNextHop:
			return a.Value.Unmap()
		case *bgp.PathAttributeMpReachNLRI:
			return a.Nexthop.Unmap()
		}
	}
	return netip.Addr{}
}
