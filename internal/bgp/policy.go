package bgp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"

	"github.com/kube-router/kube-router/internal/inet"
)

// Who is told of a route of our own is part of the route, as its local
// preference: so GoBGP itself finds out, when the audience of a route changes,
// who is to be told and from whom it is to be withdrawn. The values are the
// highest there are, so that nobody's path to the same prefix is better than
// ours. What is sent has the usual preference again.
func originPreference(to Audience) uint32 {
	return math.MaxUint32 - 3 + uint32(to&(ToNodes|ToExternal))
}

const usualPreference = 100 // RFC 4271 leaves it open; this is what everybody has

// fromExternal marks what external peers sent, until it would be told to
// nodes. 4294967295 is no autonomous system's number (RFC 7300).
const fromExternal = "4294967295:0:1"

// reflectedBy marks what a reflector of a cluster has reflected, as the
// CLUSTER_LIST does (RFC 4456 section 8). GoBGP takes what has been here before,
// and keeps to itself that its best path is such a one: two reflectors then go
// on to have a route from each other that nobody else has any more. Policies
// can see communities, and so do not take it.
func reflectedBy(cluster netip.Addr) string {
	id := cluster.As4()
	return fmt.Sprintf("4294967295:1:%d", binary.BigEndian.Uint32(id[:]))
}

// reflected matches the mark of any cluster.
const reflected = "4294967295:1:[0-9]+"

// indirectPreference is what a reflector takes for what another one tells, so
// that it prefers what a client tells itself. RFC 4456 section 9 wants that by
// the length of the CLUSTER_LIST, which GoBGP does not compare: its best path
// would be that of the lower router ID, and each client would be told of it once
// more. Clients never see it.
const indirectPreference = usualPreference - 1

// The names of policies and sets, as "gobgp policy" shows them.
const (
	importPolicy = "kube-router-import"
	exportPolicy = "kube-router-export"
	externalSet  = "external"
	markedSet    = "from-external"
	reflectedSet = "reflected-here"
	indirectSet  = "reflected"
)

// SetPolicy makes p the policy. Nothing that stays allowed is withdrawn
// meanwhile. Its error joins one for each prefix that was left out.
func (s *Speaker) SetPolicy(p Policy) error {
	unlock, err := s.changing()
	if err != nil {
		return err
	}
	defer unlock()
	p, invalid := p.valid()
	before := s.policy
	in := !slices.Equal(before.Reject, p.Reject)
	out := !before.exportsLike(p)
	if !in && !out {
		return invalid
	}
	s.policy = p
	if err := s.applyPolicies(s.external); err != nil {
		s.policy = before
		return errors.Join(err, invalid)
	}
	s.log.Info("BGP policy changed", "reject", p.Reject, "communities", p.Communities,
		"prependASN", p.PrependASN, "prependCount", p.PrependCount, "nextHopSelf", p.NextHopSelf)
	errs := []error{invalid}
	if in {
		errs = append(errs, s.refresh("all", api.ResetPeerRequest_DIRECTION_IN))
	}
	if out {
		for _, addr := range s.external {
			errs = append(errs, s.refresh(addr.String(), api.ResetPeerRequest_DIRECTION_OUT))
		}
	}
	return errors.Join(errs...)
}

// refresh judges what peers sent, or what they are told, by the policies of
// now. Sessions stay.
func (s *Speaker) refresh(peer string, which api.ResetPeerRequest_Direction) error {
	request := &api.ResetPeerRequest{Address: peer, Soft: true, Direction: which}
	if err := s.server.ResetPeer(context.Background(), request); err != nil {
		return fmt.Errorf("BGP: apply the policy to peer %s: %w", peer, err)
	}
	return nil
}

// valid is a copy of p of its own, without what cannot be.
func (p Policy) valid() (Policy, error) {
	var errs []error
	var reject []netip.Prefix
	for _, prefix := range p.Reject {
		if !prefix.IsValid() {
			errs = append(errs, fmt.Errorf("BGP: reject %s: not a prefix", prefix))
			continue
		}
		reject = append(reject, prefix.Masked())
	}
	slices.SortFunc(reject, netip.Prefix.Compare)
	p.Reject = slices.Compact(reject)
	p.Communities = slices.Clone(p.Communities)
	if p.MED != nil {
		med := *p.MED
		p.MED = &med
	}
	return p, errors.Join(errs...)
}

// exportsLike says whether external peers are told the same under p and q.
func (p Policy) exportsLike(q Policy) bool {
	sameMED := p.MED == q.MED || p.MED != nil && q.MED != nil && *p.MED == *q.MED
	return sameMED && slices.Equal(p.Communities, q.Communities) &&
		p.PrependASN == q.PrependASN && p.PrependCount == q.PrependCount && p.NextHopSelf == q.NextHopSelf
}

// applyPolicies makes GoBGP's policies those of s.policy, with these peers as
// the external ones.
func (s *Speaker) applyPolicies(external []netip.Addr) error {
	if err := s.server.SetPolicies(context.Background(), policies(s.policy, external, s.config.ClusterID, s.holding())); err != nil {
		return fmt.Errorf("BGP: set the policies: %w", err)
	}
	s.external = external
	return nil
}

// assignPolicies puts the policies in force, which holds however they change.
func (s *Speaker) assignPolicies() error {
	for name, direction := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT, exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		request := &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Direction: direction, Policies: []*api.Policy{{Name: name}}, DefaultAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
		}}
		if err := s.server.SetPolicyAssignment(context.Background(), request); err != nil {
			return fmt.Errorf("BGP: assign policy %s: %w", name, err)
		}
	}
	return nil
}

// policies are p in GoBGP's words, for a reflector of a cluster if that is
// valid, which reflects nothing yet where it is on hold. A set is never empty: for GoBGP an empty set of neighbours matches
// everybody.
func policies(p Policy, external []netip.Addr, cluster netip.Addr, onHold bool) *api.SetPoliciesRequest {
	sets := []*api.DefinedSet{marked(markedSet, fromExternal), neighbors(externalSet, external, nil)}
	if cluster.IsValid() {
		sets = append(sets, marked(reflectedSet, reflectedBy(cluster)), marked(indirectSet, reflected))
	}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		sets = append(sets, rejected(p, f), neighbors(familySet(externalSet, f), external, &f))
	}
	return &api.SetPoliciesRequest{
		DefinedSets: sets,
		Policies: []*api.Policy{
			{Name: importPolicy, Statements: importStatements(cluster)},
			{Name: exportPolicy, Statements: exportStatements(p, cluster, onHold)},
		},
	}
}

// marked is the set of a large community (RFC 8092).
func marked(name, community string) *api.DefinedSet {
	return &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, Name: name, List: []string{"^" + community + "$"}}
}

func anyOf(set string) *api.MatchSet { return &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set} }

func mark(community string) *api.CommunityAction {
	return &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: []string{community}}
}

func familySet(name string, f inet.Family) string {
	if f == inet.IPv4 {
		return name + "-4"
	}
	return name + "-6"
}

// neighbors is the set of peers of a family, or of all.
func neighbors(name string, peers []netip.Addr, of *inet.Family) *api.DefinedSet {
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: name, List: []string{"0.0.0.0/32"}}
	for _, peer := range peers {
		if of == nil || inet.FamilyOf(peer) == *of {
			host := netip.PrefixFrom(peer.WithZone(""), peer.BitLen())
			set.List = append(set.List, host.String())
		}
	}
	return set
}

// rejected is what is not taken of a family: the default route and its two
// halves, which together are one that wins over the host's, and the policy's
// prefixes with what is inside of them.
func rejected(p Policy, f inet.Family) *api.DefinedSet {
	everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if f == inet.IPv6 {
		everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: familySet("rejected", f)}
	set.Prefixes = []*api.Prefix{{IpPrefix: everything.String(), MaskLengthMax: 1}}
	for _, prefix := range p.Reject {
		if inet.FamilyOf(prefix.Addr()) == f {
			set.Prefixes = append(set.Prefixes, &api.Prefix{
				IpPrefix:      prefix.String(),
				MaskLengthMin: uint32(prefix.Bits()), MaskLengthMax: uint32(prefix.Addr().BitLen()),
			})
		}
	}
	return set
}

func importStatements(cluster netip.Addr) []*api.Statement {
	statements := []*api.Statement{{
		Name:       "import-own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		name := familySet("rejected", f)
		statements = append(statements, &api.Statement{
			Name:       "import-" + name,
			Conditions: &api.Conditions{PrefixSet: anyOf(name)},
			Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT},
		})
	}
	if cluster.IsValid() {
		statements = append(statements, &api.Statement{
			Name:       "import-" + reflectedSet,
			Conditions: &api.Conditions{LargeCommunitySet: anyOf(reflectedSet)},
			Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT},
		})
	}
	for _, to := range []Audience{0, ToNodes, ToExternal, ToNodes | ToExternal} {
		statements = append(statements, &api.Statement{
			Name:       fmt.Sprintf("import-claim-%d", to), // nobody's preference is as high as ours
			Conditions: &api.Conditions{LocalPrefEq: &api.LocalPrefEq{Value: originPreference(to)}},
			Actions:    &api.Actions{LocalPref: &api.LocalPrefAction{Value: usualPreference}},
		})
	}
	if cluster.IsValid() {
		statements = append(statements, &api.Statement{
			Name:       "import-indirect",
			Conditions: &api.Conditions{LargeCommunitySet: anyOf(indirectSet)},
			Actions:    &api.Actions{LocalPref: &api.LocalPrefAction{Value: indirectPreference}},
		})
	}
	return append(statements, &api.Statement{
		Name:       "import-external",
		Conditions: &api.Conditions{NeighborSet: anyOf(externalSet)},
		Actions:    &api.Actions{LargeCommunity: mark(fromExternal)},
	})
}

// exportStatements: external peers are told those of our own routes that are
// for them, and nothing that we learned. Nodes are told our own, and those
// that BGP's rules reflect (RFC 4456), but nothing that external peers sent.
func exportStatements(p Policy, cluster netip.Addr, onHold bool) []*api.Statement {
	var statements []*api.Statement
	if p.NextHopSelf {
		statements = append(statements, nextHopSelf(inet.IPv4), nextHopSelf(inet.IPv6))
	}
	external := anyOf(externalSet)
	const own = api.Conditions_ROUTE_TYPE_LOCAL
	for _, to := range []Audience{ToExternal, ToNodes | ToExternal} {
		statements = append(statements, &api.Statement{
			Name:       fmt.Sprintf("export-external-%d", to),
			Conditions: &api.Conditions{NeighborSet: external, RouteType: own, LocalPrefEq: &api.LocalPrefEq{Value: originPreference(to)}},
			Actions:    p.externalActions(),
		})
	}
	reject := &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT}
	statements = append(statements, &api.Statement{Name: "export-external-none", Conditions: &api.Conditions{NeighborSet: external}, Actions: reject})
	for _, to := range []Audience{ToNodes, ToNodes | ToExternal} {
		statements = append(statements, &api.Statement{
			Name:       fmt.Sprintf("export-nodes-%d", to),
			Conditions: &api.Conditions{RouteType: own, LocalPrefEq: &api.LocalPrefEq{Value: originPreference(to)}},
			Actions: &api.Actions{
				LocalPref: &api.LocalPrefAction{Value: usualPreference}, RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
			},
		})
	}
	statements = append(statements,
		&api.Statement{Name: "export-own-none", Conditions: &api.Conditions{RouteType: own}, Actions: reject},
		&api.Statement{Name: "export-learned-external", Conditions: &api.Conditions{LargeCommunitySet: anyOf(markedSet)}, Actions: reject})
	switch {
	case onHold:
		statements = append(statements, &api.Statement{Name: "export-reflected-later", Actions: reject})
	case cluster.IsValid():
		statements = append(statements, &api.Statement{
			Name: "export-reflected",
			Actions: &api.Actions{
				LocalPref:      &api.LocalPrefAction{Value: usualPreference},
				LargeCommunity: mark(reflectedBy(cluster)), RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
			},
		})
	}
	return statements
}

// nextHopSelf makes the session's address the next hop of prefixes of its
// family. Those of the other family keep their own: the address cannot be
// theirs.
func nextHopSelf(f inet.Family) *api.Statement {
	name := familySet(externalSet, f)
	return &api.Statement{
		Name: "export-next-hop-self-" + name,
		Conditions: &api.Conditions{
			NeighborSet: anyOf(name), AfiSafiIn: []*api.Family{apiFamily(f)},
			RouteType: api.Conditions_ROUTE_TYPE_LOCAL,
		},
		Actions: &api.Actions{Nexthop: &api.NexthopAction{Self: true}},
	}
}

// externalActions are what external peers are told beside the prefix.
func (p Policy) externalActions() *api.Actions {
	actions := &api.Actions{
		LocalPref: &api.LocalPrefAction{Value: usualPreference}, RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
	}
	if len(p.Communities) > 0 {
		actions.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD}
		for _, c := range p.Communities {
			actions.Community.Communities = append(actions.Community.Communities, fmt.Sprintf("%d:%d", c>>16, c&math.MaxUint16))
		}
	}
	if p.PrependASN != 0 && p.PrependCount > 0 {
		actions.AsPrepend = &api.AsPrependAction{Asn: p.PrependASN, Repeat: uint32(p.PrependCount)}
	}
	if p.MED != nil {
		actions.Med = &api.MedAction{Type: api.MedAction_TYPE_REPLACE, Value: int64(*p.MED)}
	}
	return actions
}
