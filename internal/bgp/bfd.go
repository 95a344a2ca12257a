package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/config/oc"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// bfdPort is where peers send (RFC 5881 section 4).
const bfdPort = 3784

// detector is GoBGP's BFD beside its BGP server rather than in it: there, what
// BFD finds while there is no BGP session ends the next one, and with a peer
// whose BFD follows BGP (BIRD's does) so without end.
type detector interface {
	Start(context.Context, oc.BfdConfig) error
	AddPeer(ctx context.Context, peer netip.Addr, config oc.BfdConfig, device string) error
	DeletePeer(ctx context.Context, peer netip.Addr) error
	Stop()
}

// watchLink starts BFD with a peer that has it.
func (s *Speaker) watchLink(p Peer) error {
	if !p.BFD.Enabled {
		return nil
	}
	ctx := context.Background()
	if s.bfd == nil {
		bfd := server.NewBfdServer(linkDown{s}, s.goLog)
		if err := bfd.Start(ctx, oc.BfdConfig{Port: bfdPort}); err != nil {
			return fmt.Errorf("BFD on port %d: %w", bfdPort, err)
		}
		s.bfd = bfd
	}
	config := oc.BfdConfig{
		Enabled: true, Port: p.BFD.Port, DetectionMultiplier: uint8(p.BFD.Multiplier),
		DesiredMinimumTxInterval: uint32(p.BFD.MinTx.Microseconds()), RequiredMinimumReceive: uint32(p.BFD.MinRx.Microseconds()),
	}
	return s.bfd.AddPeer(ctx, p.Addr, config, "")
}

func (s *Speaker) unwatchLink(p Peer) error {
	if !p.BFD.Enabled || s.bfd == nil {
		return nil
	}
	return s.bfd.DeletePeer(context.Background(), p.Addr)
}

// linkDown is whom BFD tells that a peer is down.
type linkDown struct{ s *Speaker }

// ResetPeer ends the BGP session with the peer, if it is not so new that BFD
// speaks of the one before.
func (l linkDown) ResetPeer(ctx context.Context, r *api.ResetPeerRequest) error {
	addr, err := netip.ParseAddr(r.GetAddress())
	if err != nil {
		return err
	}
	l.s.mu.Lock()
	session := l.s.sessions[addr]
	ends := session != nil && !l.s.stopped && session.state == bgp.BGP_FSM_ESTABLISHED &&
		time.Since(session.since) > session.peer.BFD.detectionTime()
	if ends {
		session.linkDown = true
	}
	l.s.mu.Unlock()
	if !ends {
		return nil
	}
	return l.s.server.ResetPeer(ctx, r)
}

// detectionTime is after how long without a packet a peer is down (RFC 5880
// section 6.8.4), as far as this side decides it.
func (b BFD) detectionTime() time.Duration {
	multiplier, interval := b.Multiplier, b.MinRx
	if multiplier == 0 {
		multiplier = 3
	}
	if interval == 0 {
		interval = time.Second
	}
	return time.Duration(multiplier) * interval
}
