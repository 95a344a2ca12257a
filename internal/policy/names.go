package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
)

// The chains. The first three are jumped to from the built-in chains of the
// same ending; the others have a hash in their names, never of time or
// content: what did not change is not rewritten.
const (
	inputChain   = "KUBE-ROUTER-INPUT"
	forwardChain = "KUBE-ROUTER-FORWARD"
	outputChain  = "KUBE-ROUTER-OUTPUT"
	podPrefix    = "KUBE-POD-FW-"
	policyPrefix = "KUBE-NWPLCY-"
)

// The sets: the Pods of this node that a policy isolates, and the peers of
// each rule of a policy.
const (
	isolatedSet = "kube-router-isolated-pods"
	peerPrefix  = "KUBE-ROUTER-"
)

// direction is the direction that a policy's rules are about.
type direction string

const (
	ingress direction = "ingress"
	egress  direction = "egress"
)

// peer is where the peer's address is, in iptables' words.
func (d direction) peer() string {
	if d == ingress {
		return "src"
	}
	return "dst"
}

// hash is 80 bits of a name's digest, in letters that are safe everywhere.
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return base32.StdEncoding.EncodeToString(sum[:10])
}

func podChain(pod cluster.Key, d direction) string {
	return podPrefix + hash(pod.Namespace, pod.Name, string(d))
}

func policyChain(policy cluster.Key, d direction) string {
	return policyPrefix + hash(policy.Namespace, policy.Name, string(d))
}

// setName is a set's name in a family: two sets cannot share one. Of a hash at
// its end remains what the kernel takes, in IPv6 65 bits.
func setName(base string, f inet.Family) string {
	if f == inet.IPv6 {
		base = "inet6:" + base
	}
	return base[:min(len(base), ipset.MaxNameLen)]
}

// ownedSets are what the names of all sets of this controller begin with.
func ownedSets() []string {
	var prefixes []string
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		prefixes = append(prefixes, setName(isolatedSet, f), setName(peerPrefix, f))
	}
	return prefixes
}

// comment is a rule's comment. Names of Kubernetes objects are DNS labels, but
// nothing that is not one may end the quotes or the rule.
func comment(text string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" -./_", r):
			return r
		}
		return '?'
	}, text)
	if len(safe) > mostComment {
		safe = safe[:mostComment]
	}
	return `-m comment --comment "` + safe + `"`
}

// mostComment is below the 256 bytes of xt_comment (XT_MAX_COMMENT_LEN).
const mostComment = 240
