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
	// Restarting says that a former run of this speaker left the kernel as it
	// was, so that peers are told that forwarding went on (the R and F bits of
	// RFC 4724 section 3). A speaker that starts fresh leaves it unset.
	Restarting bool
	// DeferralTime is how long a restarting speaker waits for its peers'
	// routes before it advertises (RFC 4724 section 4.1), at least a second.
	// 0 is one second: a node that reflects nothing has nothing to learn
	// before it may say what it originates.
	DeferralTime time.Duration
	// ClusterID makes this speaker a route reflector (RFC 4456) for its peers of
	// Role Client; invalid means it is none. SetCluster changes it.
	ClusterID netip.Addr
	// AdminAddr is where GoBGP's gRPC API listens for the gobgp command,
	// "127.0.0.1:50051"; empty means nowhere.
	AdminAddr string

	// OnRoute is called after the next hops of a prefix changed, and OnPeer
	// after a session came up, went down or delivered its table. OnLimit is
	// called when one was ended because the peer sent too many prefixes, with
	// that in an operator's words. Calls come from one goroutine, without locks
	// held; nil is allowed.
	OnRoute func(netip.Prefix)
	OnPeer  func(netip.Addr)
	OnLimit func(peer netip.Addr, message string)
}

// HoldTime is after how long without a message a session is given up, and
// three times the keepalive interval (RFC 4271 section 10 suggests 90 s).
const HoldTime = 90 * time.Second

// MaxPrefixes is how many prefixes a peer may send in a family where it has no
// limit of its own: four times what 5,000 nodes with a Pod CIDR each need, and
// a fiftieth of the Internet's table.
const MaxPrefixes = 20000

// limitRetry is for how long a peer that sent too many prefixes is left alone.
const limitRetry = 5 * time.Minute

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
	Role    Role
	// Password is that of the TCP MD5 signature (RFC 2385); empty is none. It
	// is never logged or shown.
	Password Secret
	// HoldTime is 0 for the default; the keepalive interval is a third of it.
	HoldTime time.Duration
	// MultihopTTL lets a peer of another autonomous system be that many hops
	// away; below 2 it is a neighbour of the link. Peers of the same one may
	// be anywhere.
	MultihopTTL uint8
	// MaxPrefixes is how many prefixes a peer may send in a family before the
	// session is ended with an error (RFC 4486 subcode 1); 0 is the default.
	MaxPrefixes uint32
	BFD         BFD
}

// Role is what a peer is to this speaker.
type Role uint8

// The roles. Mesh is another node that is told our own routes. Client is
// another node that is told what all nodes say, too (RFC 4456). Reflector is
// a node that tells us what all nodes say. External is a router outside of
// the cluster. A reflector tells every node of its own system what all nodes
// say, other reflectors too: a node's role may change without another session.
const (
	Mesh Role = iota
	Client
	Reflector
	External
)

// String is the role as operators read it: "mesh", "client".
func (r Role) String() string {
	return [...]string{"mesh", "client", "reflector", "external"}[r]
}

// Secret is text that prints as stars.
type Secret string

// String hides the secret, also from %v and from logs.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the secret from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// BFD is bidirectional forwarding detection with a peer of the link (RFC 5880,
// 5881). The zero values of its fields are the defaults: port 3784, 3 packets,
// 1 s. Port is the peer's; this speaker listens on 3784.
type BFD struct {
	Enabled      bool
	Port         uint16
	Multiplier   uint32
	MinTx, MinRx time.Duration
}

// Route is an advertised destination and the next hop that leads to it. One
// without an audience is advertised to nobody.
type Route struct {
	Prefix  netip.Prefix
	NextHop netip.Addr
	// To says which peers are told.
	To Audience
}

// Audience is a set of peers.
type Audience uint8

// ToNodes are the peers of the roles Mesh, Client and Reflector, ToExternal
// those of the role External.
const (
	ToNodes Audience = 1 << iota
	ToExternal
)

// String is the audience as operators read it: "nodes", "nodes and external peers".
func (a Audience) String() string {
	return [...]string{"nobody", "nodes", "external peers", "nodes and external peers"}[a&(ToNodes|ToExternal)]
}

// Policy is what is taken from peers and how external ones are told. It may
// change while sessions are up, and no session ends for it.
type Policy struct {
	// Reject are prefixes that are not taken from any peer, nor what is inside
	// of them. The default routes and their halves are never taken, and neither
	// is what this speaker originates.
	Reject []netip.Prefix
	// Communities (RFC 1997) are added to what external peers are told.
	Communities []uint32
	// PrependASN is put in front of the AS path PrependCount times for external
	// peers; 0 times is never.
	PrependASN   uint32
	PrependCount uint8
	// MED is the metric that external peers are told; nil is none.
	MED *uint32
	// NextHopSelf makes the address of the session the next hop for external
	// peers, whatever the route says.
	NextHopSelf bool
}

// PeerState is what a session is like now.
type PeerState struct {
	Peer
	// State is the state of RFC 4271 section 8.2.2: "Established", "Active".
	State string
	// Since is when the session was established, or the zero Time.
	Since time.Time
	// Received counts the peer's prefixes, Accepted those of them that have not
	// been here before (RFC 4271 section 9.1.2, RFC 4456 section 8). Those that
	// the policy rejects are in both.
	Received, Accepted uint64
	// Advertised counts the prefixes that the peer was told.
	Advertised uint64
	// Settled says that the peer has delivered its whole table.
	Settled bool
	// LastError is why the last session ended or, without one, why the last
	// try to have one failed; or empty.
	LastError string
	// BFDState is the state of RFC 5880 section 4.1, "Up" or "Down", where the
	// peer has BFD, and BFDError why it is down, where this side is the cause.
	BFDState, BFDError string
}

// BFDUp is the state in which BFD watches a peer.
const BFDUp = "Up"

// Established says whether routes are exchanged with the peer.
func (p PeerState) Established() bool { return p.State == established }

const established = "Established"
