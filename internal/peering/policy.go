package peering

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/bgp"
)

// policy is what the node takes from peers and how it tells external ones.
func (r *reader) policy(c Config) bgp.Policy {
	p := bgp.Policy{NextHopSelf: c.NextHopSelf, Reject: slices.Clone(c.Reject)}
	for i, word := range words(r.node.Annotations[importReject]) {
		cidr, err := netip.ParsePrefix(word)
		if err != nil || cidr.Addr().Is4In6() {
			r.bad(importReject, "entry %d, %s, is not a CIDR; it is left out", i+1, quote(word))
			continue
		}
		p.Reject = append(p.Reject, cidr.Masked())
	}
	slices.SortFunc(p.Reject, netip.Prefix.Compare)
	p.Reject = slices.Compact(p.Reject)
	for i, word := range words(r.node.Annotations[communitiesOfNode]) {
		community, err := parseCommunity(word)
		if err != nil {
			r.bad(communitiesOfNode, "entry %d: %v; it is left out", i+1, err)
			continue
		}
		if !slices.Contains(p.Communities, community) {
			p.Communities = append(p.Communities, community)
		}
	}
	p.MED = r.med()
	p.PrependASN, p.PrependCount = r.prepend()
	return p
}

// med is the annotated metric (MULTI_EXIT_DISC, RFC 4271 section 5.1.4).
func (r *reader) med() *uint32 {
	text, ok := r.node.Annotations[metric]
	if !ok {
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	if err != nil {
		r.bad(metric, "%s is not a metric; allowed are 0 to 4294967295; none is told", quote(text))
		return nil
	}
	med := uint32(n)
	return &med
}

// prepend needs both of its annotations.
func (r *reader) prepend() (asn uint32, count uint8) {
	as, okAS := r.node.Annotations[prependASN]
	times, okCount := r.node.Annotations[prependCount]
	switch {
	case !okAS && !okCount:
		return 0, 0
	case !okAS:
		r.bad(prependCount, "is of no use without %s; nothing is prepended", prependASN)
		return 0, 0
	case !okCount:
		r.bad(prependASN, "is of no use without %s; nothing is prepended", prependCount)
		return 0, 0
	}
	asn, err := ParseASN(strings.TrimSpace(as))
	if err != nil {
		r.bad(prependASN, "%v; nothing is prepended", err)
		return 0, 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(times), 10, 8)
	if err != nil {
		r.bad(prependCount, "%s is not a count; allowed are 0 to 255; nothing is prepended", quote(times))
		return 0, 0
	}
	if n == 0 {
		return 0, 0
	}
	return asn, uint8(n)
}
