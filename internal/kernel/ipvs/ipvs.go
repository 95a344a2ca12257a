// Package ipvs drives the kernel's IP Virtual Server through its generic
// netlink family "IPVS" (include/uapi/linux/ip_vs.h).
package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// ErrUnavailable means that the kernel has no IPVS and could not load it.
var ErrUnavailable = errors.New("the kernel has no IPVS: load it with modprobe ip_vs")

// ErrNoScheduler is in the error of a virtual server whose scheduler the kernel
// lacks.
var ErrNoScheduler = errors.New("the kernel has no scheduler")

// ErrUnknownOutcome means that a change was sent to the kernel and its answer
// was lost: it may have taken effect.
var ErrUnknownOutcome = errors.New("the kernel's answer was lost, the change may have taken effect")

// ID identifies a virtual server: by protocol, address and port, or by Mark
// and Family alone.
type ID struct {
	Protocol inet.Protocol
	Addr     netip.AddrPort
	// Mark is the firewall mark of the packets that the virtual server takes,
	// whatever their protocol and destination; 0 is no mark. Family belongs to
	// it and is zero without.
	Mark   uint32
	Family inet.Family
}

// MarkID identifies the virtual server of packets with a firewall mark.
func MarkID(mark uint32, family inet.Family) ID { return ID{Mark: mark, Family: family} }

// family is the address family of the packets that the virtual server takes.
func (id ID) family() inet.Family {
	if id.Mark != 0 {
		return id.Family
	}
	return inet.FamilyOf(id.Addr.Addr())
}

// String is the form of ipvsadm -Sn: "-t 10.96.0.1:443", "-f 17", "-f 17 -6".
func (id ID) String() string {
	if id.Mark != 0 {
		suffix := map[inet.Family]string{inet.IPv6: " -6"}[id.Family]
		return fmt.Sprintf("-f %d%s", id.Mark, suffix)
	}
	flag := map[inet.Protocol]string{inet.TCP: "-t", inet.UDP: "-u", inet.SCTP: "--sctp-service"}[id.Protocol]
	return flag + " " + id.Addr.String()
}

// Config is what can be changed of a virtual server while it stays.
type Config struct {
	// Scheduler is the name of the kernel's scheduler, such as "rr".
	Scheduler string
	// Persistence is the time in seconds for which a client stays with one
	// real server; 0 means no persistence. A client is one address.
	Persistence uint32
	// SchedFlags are the scheduler's options.
	SchedFlags SchedFlags
}

// SchedFlags are the three options that a scheduler may have
// (IP_VS_SVC_F_SCHED1 to 3).
type SchedFlags uint8

// The options of the schedulers sh and mh: take another real server where the
// one that the hash names has weight 0, and hash the client's port, too.
const (
	SchedFallback SchedFlags = 1 << iota
	SchedPort
	schedFlag3
)

// text is the form of ipvsadm -Sn: "mh-fallback,mh-port", "flag-1".
func (f SchedFlags) text(scheduler string) string {
	names := [...]string{"flag-1", "flag-2", "flag-3"}
	if scheduler == "sh" || scheduler == "mh" {
		names[0], names[1] = scheduler+"-fallback", scheduler+"-port"
	}
	var set []string
	for i, name := range names {
		if f&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	return strings.Join(set, ",")
}

// Server is a virtual server with its real servers, by address.
type Server struct {
	Config
	Real map[netip.AddrPort]Real
	// Datagrams says that its packets are UDP, where the ID does not tell: that
	// of a mark. The kernel is not told, nor does it tell.
	Datagrams bool
}

// Method is how packets reach a real server (IP_VS_CONN_F_*).
type Method uint32

// The forwarding methods: NAT ("masquerading" in ipvsadm's words), direct
// routing, and IP-in-IP tunnelling.
const (
	Masquerade Method = 0
	Tunnel     Method = 2
	Route      Method = 3
)

// Real is how a real server is used.
type Real struct {
	Weight uint32
	Method Method
}

// Op is what a Change does.
type Op uint8

// The operations. Deleting a virtual server deletes its real servers.
const (
	AddServer Op = iota
	SetServer
	DeleteServer
	AddReal
	SetReal
	DeleteReal
)

// Change is one step of IPVS's state. Config belongs to AddServer and
// SetServer; RealAddr to the operations on a real server; Real to AddReal and
// SetReal.
type Change struct {
	Op       Op
	ID       ID
	Config   Config
	RealAddr netip.AddrPort
	Real     Real
}

// Interface is IPVS in one network namespace.
type Interface interface {
	// List returns every virtual server, ours or not.
	List() (map[ID]Server, error)
	// Get returns one virtual server, and false where there is none.
	Get(ID) (Server, bool, error)
	// Apply carries the changes out in order, many a message, and returns one
	// error a change, nil where it took effect. A failed change does not stop
	// those after it. The errors wrap the kernel's: EEXIST for what is there
	// already, ESRCH for a virtual server that is not, ENOENT for a real server
	// or a scheduler that is not, and ErrUnknownOutcome where the answer was
	// lost.
	Apply(changes []Change) []error
	// Connections returns how many connections, active and inactive, each real
	// server of a virtual server has: nothing where there is no such virtual
	// server.
	Connections(ID) (map[netip.AddrPort]uint32, error)
	// Timeouts returns after which time without a packet a connection ends,
	// and SetTimeouts sets those that are not 0, in whole seconds.
	Timeouts() (Timeouts, error)
	SetTimeouts(Timeouts) error
}

// String is the change as a line of ipvsadm.
func (c Change) String() string {
	switch c.Op {
	case AddServer, SetServer:
		verb := map[Op]string{AddServer: "-A", SetServer: "-E"}[c.Op]
		return fmt.Sprintf("%s %s %s", verb, c.ID, c.Config)
	case DeleteServer:
		return fmt.Sprintf("-D %s", c.ID)
	case AddReal, SetReal:
		verb := map[Op]string{AddReal: "-a", SetReal: "-e"}[c.Op]
		return fmt.Sprintf("%s %s -r %s %s", verb, c.ID, c.RealAddr, c.Real)
	}
	return fmt.Sprintf("-d %s -r %s", c.ID, c.RealAddr)
}

// String is the options of ipvsadm -Sn: "-s rr -p 10800".
func (c Config) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "-s %s", c.Scheduler)
	if c.Persistence > 0 {
		fmt.Fprintf(&b, " -p %d", c.Persistence)
	}
	if c.SchedFlags != 0 {
		fmt.Fprintf(&b, " -b %s", c.SchedFlags.text(c.Scheduler))
	}
	return b.String()
}

// String is the options of ipvsadm -Sn: "-m -w 1".
func (r Real) String() string {
	flag := map[Method]string{Masquerade: "-m", Tunnel: "-i", Route: "-g"}[r.Method]
	if r.Method == Tunnel {
		return fmt.Sprintf("%s -w %d --tun-type ipip", flag, r.Weight)
	}
	return fmt.Sprintf("%s -w %d", flag, r.Weight)
}
