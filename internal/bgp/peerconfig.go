package bgp

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
)

// usable returns those of the peers that a speaker can have, by address. Its
// error joins one for each that was left out.
func (c *Config) usable(peers []Peer) (map[netip.Addr]Peer, error) {
	usable := make(map[netip.Addr]Peer, len(peers))
	var errs []error
	for _, p := range peers {
		have, twice := usable[p.Addr]
		err := c.check(p)
		if err == nil && twice && have != p {
			err = errors.New("is given twice, with different settings")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("BGP peer %s: %w", p.Addr, err))
			continue
		}
		usable[p.Addr] = p
	}
	return usable, errors.Join(errs...)
}

// maxPassword is TCP_MD5SIG_MAXKEYLEN of linux/tcp.h.
const maxPassword = 80

// check says why a speaker cannot have a peer.
func (c *Config) check(p Peer) error {
	switch {
	case !p.Addr.IsValid() || p.Addr.IsUnspecified() || p.Addr.IsMulticast() || p.ASN == 0:
		return errors.New("needs an address and an autonomous system number")
	case slices.Contains(c.Listen, p.Addr):
		return errors.New("is this speaker itself")
	case p.Local.IsValid() && p.Local.Is4() != p.Addr.Is4():
		return fmt.Errorf("cannot be reached from %s, an address of the other family", p.Local)
	case c.ClusterID.IsValid() && !c.ClusterID.Is4():
		return fmt.Errorf("has no reflector here: the cluster ID %s is not an IPv4 address (RFC 4456)", c.ClusterID)
	case p.Role > External:
		return fmt.Errorf("has the unknown role %d", uint8(p.Role))
	case p.Role == Client && !c.ClusterID.IsValid():
		return errors.New("is a client, but this speaker has no cluster ID and so reflects no routes")
	case p.Role == Client && p.ASN != c.ASN:
		return fmt.Errorf("is a client of AS %d; a reflector's clients are of its own, %d (RFC 4456)", p.ASN, c.ASN)
	case len(p.Password) > maxPassword:
		return fmt.Errorf("has a password of %d bytes; TCP MD5 takes at most %d", len(p.Password), maxPassword)
	case p.HoldTime != 0 && (p.HoldTime < 3*time.Second || p.HoldTime > math.MaxUint16*time.Second || p.HoldTime%time.Second != 0):
		return fmt.Errorf("hold time %v is not whole seconds from 3s to %ds (RFC 4271)", p.HoldTime, math.MaxUint16)
	}
	return p.checkBFD()
}

// maxBFDInterval is what fits into a BFD packet: microseconds in 32 bits.
const maxBFDInterval = math.MaxUint32 * time.Microsecond

func (p Peer) checkBFD() error {
	b := p.BFD
	switch {
	case !b.Enabled:
		return nil
	case p.MultihopTTL > 1:
		return errors.New("BFD is only for neighbours of the link (RFC 5881), not over several hops: leave one of the two out")
	case b.Multiplier > math.MaxUint8:
		return fmt.Errorf("BFD multiplier %d is over %d", b.Multiplier, math.MaxUint8)
	case b.MinTx < 0 || b.MinTx > maxBFDInterval || b.MinRx < 0 || b.MinRx > maxBFDInterval:
		return fmt.Errorf("BFD intervals %v and %v are not between 0 and %v", b.MinTx, b.MinRx, maxBFDInterval)
	}
	return nil
}

// maxPrefixes is the peer's limit in a family.
func (p Peer) maxPrefixes() uint32 {
	if p.MaxPrefixes > 0 {
		return p.MaxPrefixes
	}
	return MaxPrefixes
}

func (p Peer) holdTime() time.Duration {
	if p.HoldTime > 0 {
		return p.HoldTime
	}
	return HoldTime
}

// peerConfig is a peer in GoBGP's words, with the limit that GoBGP keeps.
func (s *Speaker) peerConfig(p Peer, limit uint32) *api.Peer {
	config := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Addr.String(), PeerAsn: p.ASN, LocalAsn: s.config.ASN, AuthPassword: string(p.Password),
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry:           uint64(connectRetry.Seconds()),
			HoldTime:               uint64(p.holdTime().Seconds()),
			KeepaliveInterval:      uint64(p.holdTime().Seconds() / 3),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{RemotePort: uint32(p.Port), PassiveMode: p.Passive},
		AfiSafis:  s.familyConfigs(p, limit),
	}
	if p.ASN != s.config.ASN {
		config.Conf.Type = api.PeerType_PEER_TYPE_EXTERNAL
		config.EbgpMultihop = &api.EbgpMultihop{Enabled: p.MultihopTTL > 1, MultihopTtl: uint32(p.MultihopTTL)}
	}
	if p.Local.IsValid() {
		config.Transport.LocalAddress = p.Local.String()
	}
	if s.reflectsTo(p) {
		config.RouteReflector = &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: s.config.ClusterID.String()}
	}
	if s.config.GracefulRestart {
		config.GracefulRestart = s.gracefulRestart()
	}
	return config
}

// reflectsTo says whether a peer is told what other nodes say. To a reflector
// all nodes are clients, other reflectors too: to peers that are none GoBGP
// does not withdraw a client's route when its best path is another reflector's.
func (s *Speaker) reflectsTo(p Peer) bool {
	return s.config.ClusterID.IsValid() && p.Role != External && p.ASN == s.config.ASN
}

// sameSession says whether a becomes b without another session: the roles of
// nodes are ours to tell apart.
func sameSession(a, b Peer) bool {
	if (a.Role == External) == (b.Role == External) {
		a.Role = b.Role
	}
	return a == b
}

// familyConfigs are the families of a peer's session.
func (s *Speaker) familyConfigs(p Peer, limit uint32) []*api.AfiSafi {
	var configs []*api.AfiSafi
	for _, f := range s.config.Families {
		configs = append(configs, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: apiFamily(f), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: s.config.GracefulRestart}},
			PrefixLimits:      &api.PrefixLimit{Family: apiFamily(f), MaxPrefixes: limit},
		})
	}
	return configs
}

// gracefulRestart says that we restart only while a restart can still be under
// way: a peer that is configured later never knew the former run.
func (s *Speaker) gracefulRestart() *api.GracefulRestart {
	deferral := max(s.config.DeferralTime, time.Second)
	return &api.GracefulRestart{
		Enabled:         true,
		RestartTime:     uint32(s.config.RestartTime.Seconds()),
		DeferralTime:    uint32(deferral.Seconds()),
		LocalRestarting: s.config.Restarting && time.Since(s.started) < s.config.RestartTime,
	}
}
