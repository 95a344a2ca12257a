// Package admin is the local interface of the running agent: a unix socket that
// only root can open, where the command kube-router asks what the agent does.
//
// It speaks HTTP with JSON, and it only tells; nothing can be changed through
// it. The types here are the JSON: fields may be added, and those that are
// there keep name and meaning. Times are RFC 3339, lists are never null, and
// what is not known is left out.
package admin

import (
	"net/netip"
	"time"
)

// Status is the answer of /v1/status: the agent on one screen.
type Status struct {
	Version string    `json:"version"`
	Node    string    `json:"node"`
	Started time.Time `json:"started"`
	// Wrong says in words what is wrong, the worst first; empty is all well.
	Wrong     []string  `json:"wrong"`
	APIServer APIServer `json:"apiServer"`
	// Controllers are all there are, also those that are off.
	Controllers []Controller `json:"controllers"`
	Peers       []Peer       `json:"peers"`
	Advice      []Advice     `json:"advice"`
}

// APIServer is the connection to the API server.
type APIServer struct {
	URL string `json:"url"`
	// Lost is since when it does not answer, and Reason why. What is programmed
	// stays in force.
	Lost   time.Time `json:"lost,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// The states of a Controller.
const (
	// Off is a controller that a flag turned off.
	Off = "off"
	// Starting has not programmed everything once yet.
	Starting = "starting"
	// Running has, and follows the changes.
	Running = "running"
	// Stuck has worked for minutes on what takes seconds; the liveness probe
	// has the agent restarted.
	Stuck = "stuck"
)

// Controller is one of the agent's controllers.
type Controller struct {
	Name  string `json:"name"`
	State string `json:"state"`
	// Reason says in words why the state is not running, or what else there is
	// to say of it.
	Reason string `json:"reason,omitempty"`
	// LastSync is when it last brought the kernel to the desired state.
	LastSync time.Time `json:"lastSync,omitzero"`
	Objects  []Objects `json:"objects"`
	// PendingCount is how many things are not done, and Pending the first
	// hundred of them, longest first.
	PendingCount int       `json:"pendingCount"`
	Pending      []Pending `json:"pending"`
}

// Objects counts the objects of a kind: desired, and in the kernel as desired.
type Objects struct {
	Kind       string `json:"kind"`
	Desired    int    `json:"desired"`
	Programmed int    `json:"programmed"`
}

// Pending is what is not in the kernel yet.
type Pending struct {
	What     string    `json:"what"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`
	// Reason is what the last attempt failed with; empty where there was none.
	Reason string `json:"reason,omitempty"`
	// Failed says that something is wrong, rather than waited for.
	Failed bool `json:"failed"`
}

// Advice is a mistake that the agent noticed, with the way out.
type Advice struct {
	// Reason names the mistake in UpperCamelCase, as the Event on the Node does.
	Reason string `json:"reason"`
	// Severity is "warning" for what does harm now, "note" for what will one day.
	Severity string    `json:"severity"`
	Message  string    `json:"message"`
	Since    time.Time `json:"since"`
}

// Peer is a BGP neighbour.
type Peer struct {
	Address netip.Addr `json:"address"`
	// Node is the name of the node that has the address; none outside the cluster.
	Node string `json:"node,omitempty"`
	ASN  uint32 `json:"asn"`
	// Role is "mesh", "client", "reflector" or "external".
	Role string `json:"role,omitempty"`
	// State is the state of RFC 4271 section 8.2.2: "Established", "Active".
	State string `json:"state"`
	// Since is when the session was established.
	Since time.Time `json:"since,omitzero"`
	// Received and Accepted count the peer's prefixes.
	Received uint64 `json:"received"`
	Accepted uint64 `json:"accepted"`
	// Advertised counts the prefixes that the peer was told.
	Advertised uint64 `json:"advertised"`
	// LastError is why the last session ended.
	LastError string `json:"lastError,omitempty"`
	// BFD is the state of RFC 5880 section 4.1, "Up", "Down", "Init", where the
	// peer has BFD, and BFDError why it is down, if this side is the cause.
	BFD      string `json:"bfd,omitempty"`
	BFDError string `json:"bfdError,omitempty"`
}

// bfdTime is how long after its start a session may still have no BFD.
const bfdTime = 10 * time.Second

// WithoutBFD says that BFD is on with a peer and does not work.
func (p Peer) WithoutBFD(now time.Time) bool {
	return p.Established() && p.BFD != "" && p.BFD != "Up" && now.Sub(p.Since) > bfdTime
}

// Established says whether routes are exchanged with the peer.
func (p Peer) Established() bool { return p.State == "Established" }

// The states of an object in the kernel.
const (
	Programmed = "programmed"
	// Waiting is not in the kernel yet.
	Waiting = "pending"
	// Failed was refused, and is tried again.
	Failed = "failed"
	// Unused needs nothing of this node's kernel.
	Unused = "unused"
)

// Route is a prefix that peers sent.
type Route struct {
	Prefix   netip.Prefix `json:"prefix"`
	NextHops []NextHop    `json:"nextHops"`
	State    string       `json:"state"`
	Reason   string       `json:"reason,omitempty"`
}

// NextHop is one way to a destination.
type NextHop struct {
	Via  netip.Addr `json:"via,omitzero"`
	Link string     `json:"link,omitempty"`
}

// Service is a Service as this node serves it.
type Service struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	State     string `json:"state"`
	Reason    string `json:"reason,omitempty"`
	// Refused says what of it is left out, and why.
	Refused []string        `json:"refused"`
	Servers []VirtualServer `json:"servers"`
}

// VirtualServer is an address and port of a Service. One without endpoints
// refuses.
type VirtualServer struct {
	Protocol  string     `json:"protocol"`
	Address   netip.Addr `json:"address"`
	Port      uint16     `json:"port"`
	Scheduler string     `json:"scheduler,omitempty"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is a real server. Weight 0 gets no new connections.
type Endpoint struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Weight  uint32     `json:"weight"`
}

// Policy is a NetworkPolicy as this node enforces it.
type Policy struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Directions are "ingress" and "egress", those that it isolates.
	Directions []string `json:"directions"`
	// Pods are those of this node that it isolates.
	Pods  []string `json:"pods"`
	State string   `json:"state"`
	// Reason says why it is not in force as it is now.
	Reason string `json:"reason,omitempty"`
	// Refused says what of it is left out, and why.
	Refused []string `json:"refused"`
}

// Set is an IP set.
type Set struct {
	Controller string `json:"controller"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	Family     string `json:"family"`
	Entries    int    `json:"entries"`
	MaxEntries uint32 `json:"maxEntries"`
	State      string `json:"state"`
}

// List is the answer of /v1/peers, /v1/routes and so on.
type List[T any] struct {
	Items []T `json:"items"`
}
