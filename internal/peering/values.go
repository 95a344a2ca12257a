package peering

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/bgp"
)

// The annotations of Nodes.
const (
	prefix            = "kube-router.io/"
	asnAnnotation     = prefix + "node.asn"
	reflector         = prefix + "node.bgp.routereflector.cluster-id"
	reflectorServer   = prefix + "rr.server"
	reflectorClient   = prefix + "rr.client"
	localAddresses    = prefix + "bgp-local-addresses"
	peersAnnotation   = prefix + "peers"
	peerIPs           = prefix + "peer.ips"
	peerASNs          = prefix + "peer.asns"
	peerPorts         = prefix + "peer.ports"
	peerPasswords     = prefix + "peer.passwords"
	peerLocals        = prefix + "peer.localips"
	communitiesOfNode = prefix + "node.bgp.communities"
	metric            = prefix + "node.bgp.med"
	importReject      = prefix + "node.bgp.customimportreject"
	prependASN        = prefix + "path-prepend.as"
	prependCount      = prefix + "path-prepend.repeat-n"
)

// longestPassword is what the kernel takes for a TCP MD5 signature
// (TCP_MD5SIG_MAXKEYLEN).
const longestPassword = 80

// quote shows a value, however long it is.
func quote(s string) string {
	const longest = 64
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	return strconv.Quote(s)
}

// words are the entries of a list with commas between, without space around
// them. An empty list has none.
func words(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	list := strings.Split(text, ",")
	for i, w := range list {
		list[i] = strings.TrimSpace(w)
	}
	return list
}

// ParseASN reads an autonomous system number that a speaker can have: neither
// 0 (RFC 7607), nor AS_TRANS (RFC 6793), nor the last one of 16 or of 32 bits
// (RFC 7300).
func ParseASN(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n == 23456 || n == 65535 || n == 4294967295 {
		return 0, fmt.Errorf("%s is not an AS number; allowed are 1 to 4294967294 but 23456 and 65535", quote(s))
	}
	return uint32(n), nil
}

// ParsePassword reads a password as it is configured, in base64. Its error
// does not repeat it.
func ParsePassword(s string) (bgp.Secret, error) {
	text, err := base64.StdEncoding.DecodeString(s)
	switch {
	case err != nil:
		return "", errors.New("the password is not base64; 'printf %s PASSWORD | base64' writes it")
	case len(text) > longestPassword:
		return "", fmt.Errorf("the password has more than %d bytes, which TCP MD5 does not allow", longestPassword)
	case slices.Contains(text, 0):
		return "", errors.New("the password has a zero byte")
	}
	return bgp.Secret(text), nil
}

// parsePort reads a port; none is 0.
func parsePort(s string) (uint16, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is not a port; allowed are 1 to 65535", quote(s))
	}
	return uint16(n), nil
}

// parseClusterID reads the cluster identifier of reflectors (RFC 4456), four
// bytes that are written as an IPv4 address or as a number, and are not zero.
func parseClusterID(s string) (netip.Addr, error) {
	s = strings.TrimSpace(s)
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() && !a.IsUnspecified() {
		return a, nil
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && n != 0 {
		return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), nil
	}
	return netip.Addr{}, fmt.Errorf("%s is not a cluster ID; allowed are an IPv4 address such as 1.0.0.1, and a number of 1 to 4294967295", quote(s))
}

// wellKnown are the communities that have names (RFC 1997, 3765, 7999, 8326,
// 9494).
var wellKnown = map[string]uint32{
	"graceful-shutdown": 0xffff0000, "accept-own": 0xffff0001, "llgr-stale": 0xffff0006, "no-llgr": 0xffff0007,
	"blackhole": 0xffff029a, "no-export": 0xffffff01, "no-advertise": 0xffffff02,
	"no-export-subconfed": 0xffffff03, "local-as": 0xffffff03, "no-peer": 0xffffff04,
}

// parseCommunity reads a community (RFC 1997).
func parseCommunity(s string) (uint32, error) {
	if c, ok := wellKnown[strings.ToLower(s)]; ok {
		return c, nil
	}
	bad := fmt.Errorf("%s is not a community; allowed are 65000:100, a number, and names such as no-export", quote(s))
	high, low, two := strings.Cut(s, ":")
	if !two {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, bad
		}
		return uint32(n), nil
	}
	a, err1 := strconv.ParseUint(high, 10, 16)
	b, err2 := strconv.ParseUint(low, 10, 16)
	if err1 != nil || err2 != nil {
		return 0, bad
	}
	return uint32(a)<<16 | uint32(b), nil
}
