package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"unicode/utf8"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// The chains. The first three are jumped to from the built-in chains of the
// same ending; the others have a hash in their names, never of time: what did
// not change is not rewritten.
const (
	inputChain   = "KUBE-ROUTER-INPUT"
	forwardChain = "KUBE-ROUTER-FORWARD"
	outputChain  = "KUBE-ROUTER-OUTPUT"
	podPrefix    = "KUBE-POD-FW-"
	policyPrefix = "KUBE-NWPLCY-"
)

// The sets: the Pods of this node that a policy isolates, all that this node
// knows of its own, and what the rules of policies match.
const (
	isolatedSet = "kube-router-isolated-pods"
	localSet    = "kube-router-local-pods"
	peerPrefix  = "KUBE-ROUTER-"
)

// direction is the direction that a policy's rules are about.
type direction uint8

const (
	ingress direction = iota
	egress
	directions
)

// String is "ingress" or "egress".
func (d direction) String() string {
	if d == ingress {
		return "ingress"
	}
	return "egress"
}

// peer is where the peer's address is, in iptables' words.
func (d direction) peer() string {
	if d == ingress {
		return "src"
	}
	return "dst"
}

// own is the match of the address of the Pod that is judged.
func (d direction) own() string {
	if d == ingress {
		return "-d "
	}
	return "-s "
}

// isolates says whether a policy isolates the Pods that it selects.
func isolates(p *cluster.NetworkPolicy, d direction) bool {
	if d == ingress {
		return p.IsolatesIngress
	}
	return p.IsolatesEgress
}

// hash is 80 bits of a name's digest, in letters that are safe everywhere.
func hash(parts ...string) string {
	var room [256]byte // for what most names take
	text := room[:0]
	for i, part := range parts {
		if i > 0 {
			text = append(text, 0)
		}
		text = append(text, part...)
	}
	sum := sha256.Sum256(text)
	var letters [16]byte
	base32.StdEncoding.Encode(letters[:], sum[:10])
	return string(letters[:])
}

// groupChain judges a direction of the Pods that the same policies isolate.
func groupChain(policies []cluster.Key, d direction) string {
	parts := make([]string, 0, 2*len(policies)+1)
	parts = append(parts, d.String())
	for _, p := range policies {
		parts = append(parts, p.Namespace, p.Name)
	}
	return podPrefix + hash(parts...)
}

func policyChain(policy cluster.Key, d direction) string {
	return policyPrefix + hash(policy.Namespace, policy.Name, d.String())
}

// setName is a set's name in a family: two sets cannot share one. Of a hash at
// its end remains what the kernel takes, in IPv6 65 bits.
func setName(base string, f inet.Family) string {
	if f == inet.IPv6 {
		base = prefix6 + base
	}
	return base[:min(len(base), ipset.MaxNameLen)]
}

const prefix6 = "inet6:"

// familyOf is the family of a set, by its name.
func familyOf(set string) inet.Family {
	if strings.HasPrefix(set, prefix6) {
		return inet.IPv6
	}
	return inet.IPv4
}

// OwnedChains are what the names of all chains of this controller begin with.
func OwnedChains() []string {
	return []string{inputChain, forwardChain, outputChain, podPrefix, policyPrefix}
}

// OwnedSets are what the names of all sets of this controller begin with.
func OwnedSets() []string {
	var prefixes []string
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		prefixes = append(prefixes, setName(isolatedSet, f), setName(localSet, f), setName(peerPrefix, f))
	}
	return prefixes
}

// comment is a rule's comment. Names of Kubernetes objects are DNS labels, but
// nothing that is not one may end the quotes or the rule.
func comment(text string) string {
	if !harmless(text) {
		text = strings.Map(func(r rune) rune {
			if r < utf8.RuneSelf && harmless(string(r)) {
				return r
			}
			return '?'
		}, text)
	}
	return `-m comment --comment "` + text[:min(len(text), mostComment)] + `"`
}

func harmless(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(" -./_,:", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// mostComment is below the 256 bytes of xt_comment (XT_MAX_COMMENT_LEN).
const mostComment = 240
