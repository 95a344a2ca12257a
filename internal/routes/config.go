package routes

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
	"github.com/kube-router/kube-router/internal/overlay"
	"github.com/kube-router/kube-router/internal/peering"
)

// Config is what the operator decides.
type Config struct {
	// NodeName is the name of this node's Node object.
	NodeName string
	// Families are the enabled address families, IPv4 first.
	Families []inet.Family

	// Peering decides whom this node speaks BGP with.
	Peering peering.Config
	// Linger is how long the session with a node lasts that is to have none.
	Linger          time.Duration
	GracefulRestart bool
	// RestartTime is how long peers keep our routes while we restart, and how
	// long routes of a former run stay at most until peers confirm them.
	RestartTime time.Duration
	// SettleTime is how long they stay after the peers' tables have come.
	SettleTime time.Duration
	// AdminAddr is where the gobgp command reaches the speaker, or empty.
	AdminAddr string

	// PodCIDRs are told to routers outside of the cluster, too, and VIPs are the
	// addresses of Services that these are told.
	PodCIDRs bool
	VIPs     VIPs
	// Predecessors are the links of other service proxies: their addresses are
	// those of Services, not this host's.
	Predecessors []string

	// Overlay is how this node reaches nodes of other subnets.
	Overlay overlay.Config

	// PodEgress masquerades what Pods send out of the cluster, but not what they
	// send to the networks of EgressExcluded.
	PodEgress      bool
	EgressExcluded []netip.Prefix
	// AutoMTU gives the bridge and the Pods the MTU that fits into the links
	// between nodes.
	AutoMTU bool
	// EnableCNI makes the controller write CNIFile. Hairpin lets Pods reach
	// themselves through a Service.
	EnableCNI bool
	CNIFile   string
	Hairpin   bool
	// Policies is closed when they are in force; CNIFile is not made before. It
	// is nil where they are nobody's or another's.
	Policies <-chan struct{}

	// SyncPeriod is how often the kernel is read back and drift repaired.
	SyncPeriod time.Duration
	// Synced is told how long each round of changes took; nil is allowed.
	Synced func(time.Duration)
	// Landed is told how long a change of the Nodes, or of what peers advertise,
	// took to reach the kernel, from when it was heard of; nil is allowed.
	Landed func(time.Duration)
}

// Speaker is what the controller asks of BGP: *bgp.Speaker, or a fake.
type Speaker interface {
	SetPeers([]bgp.Peer) error
	SetCluster(netip.Addr) error
	Advertise([]bgp.Route) error
	SetPolicy(bgp.Policy) error
	NextHops(netip.Prefix) []netip.Addr
	Learned() map[netip.Prefix][]netip.Addr
	Unsettled() []netip.Addr
	Peers() []bgp.PeerState
	Stop()
}

// Drivers are the kernel and the speaker, as the controller sees them.
type Drivers struct {
	// Speak starts a speaker: SpeakBGP, or a fake.
	Speak   func(bgp.Config, *slog.Logger) (Speaker, error)
	Routes  route.Interface
	Links   link.Interface
	Sysctl  sysctl.Interface
	Modules func(names ...string) error // module.Load
	Sets    ipset.Interface
	// Rules has the Ruleset of each enabled family, shared by the controllers.
	Rules map[inet.Family]*iptables.Ruleset
}

// SpeakBGP starts the real speaker.
func SpeakBGP(c bgp.Config, log *slog.Logger) (Speaker, error) {
	s, err := bgp.Start(c, log)
	if err != nil {
		return nil, err // not a Speaker that holds a nil pointer
	}
	return s, nil
}
