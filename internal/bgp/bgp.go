// Package bgp is the agent's BGP speaker: GoBGP behind a few types of our own,
// so that its API stays in this package.
//
// What the speaker should do (its peers, what it advertises) is handed over
// whole, and differences are worked out here: a peer that did not change keeps
// its session. What it has learned comes out the same way: a set of next hops
// a prefix, and a call when that set changes.
package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
)

// Config is what a Speaker is started with and cannot change while it runs.
type Config struct {
	// ASN is the autonomous system number of this speaker.
	ASN uint32
	// RouterID identifies the speaker (RFC 4271 section 4.2): an IPv4 address
	// that is unique among its peers.
	RouterID netip.Addr
	// Listen are the addresses to accept sessions on, at TCP Port.
	Listen []netip.Addr
	Port   uint16
	// Families are the address families exchanged over every session.
	Families []inet.Family
	// GracefulRestart (RFC 4724) makes peers keep our routes while we
	// restart, for at most RestartTime (whole seconds, at most 4095).
	GracefulRestart bool
	RestartTime     time.Duration
	// Restarting says that a former run of this speaker left its routes in the
	// kernel, so that peers are told that forwarding went on (the R and F bits
	// of RFC 4724 section 3). A speaker that starts fresh leaves it unset.
	Restarting bool
	// DeferralTime is how long a restarting speaker waits for its peers'
	// routes before it advertises (RFC 4724 section 4.1), at least a second.
	// 0 is one second: a node that reflects nothing has nothing to learn
	// before it may say what it originates.
	DeferralTime time.Duration
	// AdminAddr is where GoBGP's gRPC API listens for the gobgp command,
	// "127.0.0.1:50051"; empty means nowhere.
	AdminAddr string

	// OnRoute is called after the next hops of a prefix changed, and OnPeer
	// after a session came up, went down or delivered its table. Calls come
	// from one goroutine, without locks held; nil is allowed.
	OnRoute func(netip.Prefix)
	OnPeer  func(netip.Addr)
}

// HoldTime is after how long without a message a session is given up, and
// three times the keepalive interval (RFC 4271 section 10 suggests 90 s).
const HoldTime = 90 * time.Second

// connectRetry is how often an unreachable peer is tried: the least that GoBGP
// accepts. A node that is away costs one SYN each time.
const connectRetry = 2 * time.Second

// settleTime is how long after its start a session counts as having delivered
// its table where the peer does not send End-of-RIB.
const settleTime = 3 * time.Second

func (c *Config) validate() error {
	switch {
	case c.ASN == 0:
		return errors.New("BGP: no autonomous system number")
	case !c.RouterID.Is4():
		return fmt.Errorf("BGP: router ID %q is not an IPv4 address", c.RouterID)
	case len(c.Families) == 0:
		return errors.New("BGP: no address family")
	case c.GracefulRestart && (c.RestartTime < time.Second || c.RestartTime > 4095*time.Second):
		return fmt.Errorf("BGP: restart time %v is not between 1s and 4095s", c.RestartTime)
	}
	return nil
}

// Peer is a configured neighbour. Two equal Peers are one session.
type Peer struct {
	Addr netip.Addr
	ASN  uint32
	// Port is the peer's TCP port; 0 is 179.
	Port uint16
	// Local is the address to connect from, or invalid for the kernel's choice.
	Local netip.Addr
	// Passive peers are waited for. In a mesh one side of each pair is
	// passive, so that two connections never meet (RFC 4271 section 6.8).
	Passive bool
}

// Route is an advertised destination and the next hop that leads to it.
type Route struct {
	Prefix  netip.Prefix
	NextHop netip.Addr
}

// PeerState is what a session is like now.
type PeerState struct {
	Peer
	// State is the state of RFC 4271 section 8.2.2: "Established", "Active".
	State string
	// Since is when the session was established, or the zero Time.
	Since time.Time
	// Received and Accepted count the peer's prefixes.
	Received, Accepted uint64
	// Settled says that the peer has delivered its whole table.
	Settled bool
	// LastError is why the last session ended, or empty.
	LastError string
}

// Established says whether routes are exchanged with the peer.
func (p PeerState) Established() bool { return p.State == established }

const established = "Established"
