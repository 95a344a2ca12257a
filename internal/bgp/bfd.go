package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"sync"
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
		bfd := server.NewBfdServer(linkDown{s}, s.bfdLog)
		if err := bfd.Start(ctx, oc.BfdConfig{Port: bfdPort}); err != nil {
			return fmt.Errorf("BFD on port %d: %w", bfdPort, err)
		}
		s.mu.Lock()
		s.bfd = bfd
		s.bfdState = func(peer netip.Addr) string {
			state, err := bfd.GetPeerState(peer)
			if err != nil {
				return ""
			}
			return bfdStateName(reflect.ValueOf(state))
		}
		s.mu.Unlock()
	}
	config := oc.BfdConfig{
		Enabled: true, Port: p.BFD.Port, DetectionMultiplier: uint8(p.BFD.Multiplier),
		DesiredMinimumTxInterval: uint32(p.BFD.MinTx.Microseconds()), RequiredMinimumReceive: uint32(p.BFD.MinRx.Microseconds()),
	}
	return s.bfd.AddPeer(ctx, p.Addr, config, "")
}

// bfdStateName is the state of RFC 5880 section 4.1 that GoBGP tells of a peer:
// in a type of its own, so that it can only be looked for (v4.8.0).
func bfdStateName(of reflect.Value) string {
	for _, field := range []string{"state", "SessionState"} {
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() != reflect.Struct {
			return ""
		}
		of = of.FieldByName(field)
	}
	if !of.CanInt() {
		return ""
	}
	return map[api.BfdSessionState]string{
		api.BfdSessionState_BFD_SESSION_STATE_UP: BFDUp, api.BfdSessionState_BFD_SESSION_STATE_DOWN: "Down",
		api.BfdSessionState_BFD_SESSION_STATE_ADMIN_DOWN: "AdminDown", api.BfdSessionState_BFD_SESSION_STATE_INIT: "Init",
	}[api.BfdSessionState(of.Int())]
}

// bfdOf is the state of BFD with a peer, and why it can be in no better one
// where that is known. The caller holds mu.
func (s *Speaker) bfdOf(p Peer) (state, why string) {
	if !p.BFD.Enabled || s.bfdState == nil {
		return "", ""
	}
	if state = s.bfdState(p.Addr); state != BFDUp {
		why = s.bfdDeaf.reason()
	}
	return state, why
}

// deaf is why BFD does not hear anybody, for GoBGP tells it to its log alone,
// and again each second.
type deaf struct {
	mu  sync.Mutex
	why string
}

func (d *deaf) reason() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why
}

// note takes note of a record, and says whether it only repeats another.
func (d *deaf) note(r slog.Record) (repeats bool) {
	why := ""
	switch r.Message {
	case "Can't listen UDP":
		why = attribute(r, "Error").String()
	case "BFD server is started":
	default:
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	repeats = why != "" && d.why == why
	d.why = why
	return repeats
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
