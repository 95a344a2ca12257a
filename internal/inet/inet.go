// Package inet names the two facts that every layer of the agent shares about
// a packet: its transport protocol and its address family.
package inet

import (
	"fmt"
	"net/netip"
	"strings"
)

// Protocol is a transport protocol, by its IANA protocol number.
type Protocol uint8

// The transport protocols that Kubernetes Services and NetworkPolicies know.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String is the protocol's name as iptables, ipset and ipvsadm write it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("%d", uint8(p))
}

// ParseProtocol reads the protocol names of the Kubernetes API ("TCP") and of
// the kernel's tools ("tcp").
func ParseProtocol(s string) (Protocol, error) {
	switch strings.ToLower(s) {
	case "tcp":
		return TCP, nil
	case "udp":
		return UDP, nil
	case "sctp":
		return SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q is not one of TCP, UDP, SCTP", s)
}

// Family is an address family.
type Family uint8

// The address families. Their values are those that people write.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf is the family of an address. IPv4-mapped IPv6 addresses count as
// IPv6: callers unmap what they parse.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String is "IPv4" or "IPv6", as the Kubernetes API writes it.
func (f Family) String() string {
	return fmt.Sprintf("IPv%d", uint8(f))
}

// Bits is the length of an address in bits: 32 or 128.
func (f Family) Bits() int {
	if f == IPv4 {
		return 32
	}
	return 128
}
