package watch

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
)

// annotationPrefix is that of the annotations which the controllers read.
const annotationPrefix = "kube-router.io/"

// mostProblems bounds what is kept of an object with everything wrong.
const mostProblems = 10

// problems collects what was left out of an object, in words.
type problems struct {
	list []string
	more int
}

func (p *problems) add(format string, args ...any) {
	if len(p.list) == mostProblems {
		p.more++
		return
	}
	p.list = append(p.list, fmt.Sprintf(format, args...))
}

// words are the problems, or nil.
func (p *problems) words() []string {
	if p.more > 0 {
		return append(p.list, fmt.Sprintf("and %d more", p.more))
	}
	return p.list
}

// quote shows a value of an object, however long it is.
func quote(s string) string {
	const longest = 64
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	return fmt.Sprintf("%q", s)
}

func keyOf(o *metav1.ObjectMeta) cluster.Key {
	return cluster.Key{Namespace: o.Namespace, Name: o.Name}
}

func metaOf(o *metav1.ObjectMeta, p *problems) cluster.Meta {
	return cluster.Meta{Key: keyOf(o), UID: string(o.UID), Problems: p.words()}
}

// parseAddr reads an address. IPv4-mapped IPv6 addresses become IPv4 ones, and
// an address with a zone is none.
func parseAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}

// reserved says that traffic to an address never leaves the host or its link:
// a Service or endpoint with one would take over the node's own traffic. The
// API server refuses the same ones in EndpointSlices.
func reserved(a netip.Addr) bool {
	return a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// serviceAddrs reads the addresses of a Service, each once.
func serviceAddrs(field string, list []string, p *problems) []netip.Addr {
	var addrs []netip.Addr
	for i, s := range list {
		addr, err := serviceAddr(s)
		if err != nil {
			p.add("%s[%d]: %v; it is left out", field, i, err)
			continue
		}
		addrs = append(addrs, addr)
	}
	return distinct(addrs)
}

// serviceAddr reads an address of a Service or an endpoint.
func serviceAddr(s string) (netip.Addr, error) {
	addr, ok := parseAddr(s)
	if !ok {
		return addr, fmt.Errorf("%s is not an IP address", quote(s))
	}
	if reserved(addr) {
		return addr, fmt.Errorf("%s is reserved (loopback, link-local, multicast or unspecified)", addr)
	}
	return addr, nil
}

// distinct leaves out of a list what is in it already. A list may be as long as an
// object can be large.
func distinct[T comparable](list []T) []T {
	if len(list) < 2 {
		return list
	}
	seen := make(map[T]struct{}, len(list))
	return slices.DeleteFunc(list, func(e T) bool {
		_, again := seen[e]
		seen[e] = struct{}{}
		return again
	})
}

// appendNew appends to a short list what is not in it.
func appendNew[T comparable](list []T, element T) []T {
	for _, e := range list {
		if e == element {
			return list
		}
	}
	return append(list, element)
}

// parsePrefix reads a CIDR. Bits beyond the prefix length are cleared, as the
// API server allows them.
func parsePrefix(s string) (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, false
	}
	return prefix.Masked(), true
}

// parsePort reads a port of 1 to 65535.
func parsePort(n int32) (uint16, bool) {
	return uint16(n), n >= 1 && n <= 65535
}

// parseProtocol reads a protocol; none is TCP, as everywhere in the API.
func parseProtocol(s corev1.Protocol) (inet.Protocol, error) {
	if s == "" {
		return inet.TCP, nil
	}
	return inet.ParseProtocol(string(s))
}

// withPrefix keeps the entries whose key begins with a prefix; none is nil.
func withPrefix(all map[string]string, prefix string) map[string]string {
	var kept map[string]string
	for key, value := range all {
		if strings.HasPrefix(key, prefix) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[key] = value
		}
	}
	return kept
}

// clip is the text of an error that may repeat a value of any length.
func clip(err error) string {
	const longest = 200
	s := err.Error()
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	return s
}
