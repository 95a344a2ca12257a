package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// layout is a node's packet filter, in whose presence connections are made.
type layout struct {
	name     string
	policies int
	// perPod is how many policies select the affected Pod, and each other that
	// policies select.
	perPod  int
	program func(ctx context.Context, w *workload) (time.Duration, error)
}

// The layouts' names. The others are compared with none.
const (
	bare      = "no rules at all"
	none      = "ours, 0 policies"
	some      = "ours, 100 policies"
	all       = "ours, 1000 policies"
	allOnOne  = "ours, 1000 policies, all of one pod"
	flatRules = "flat rules, 1000 policies"
)

func layouts() []layout {
	return []layout{
		{bare, 0, 0, func(context.Context, *workload) (time.Duration, error) { return 0, nil }},
		{none, 0, 0, programOurs},
		{some, 100, policiesPerPod, programOurs},
		{all, policyCount, policiesPerPod, programOurs},
		{allOnOne, policyCount, policyCount, programOurs},
		{flatRules, policyCount, policiesPerPod, programFlat},
	}
}

func layoutOf(name string) (layout, error) {
	for _, l := range layouts() {
		if l.name == name {
			return l, nil
		}
	}
	return layout{}, fmt.Errorf("no layout %q", name)
}

// note says how many rules the flat layout has.
func (l layout) note() string {
	w, _, _ := connectWorkload(l)
	return fmt.Sprintf("%d rules", strings.Count(flat(w), "\n-A "))
}

func programOurs(ctx context.Context, w *workload) (time.Duration, error) {
	_, took, err := startAgent(ctx, w)
	return took, err
}

// programFlat writes all policies in the plain way, in one run of
// iptables-restore: a rule for each address that a policy's peer selects, a
// chain a policy and a chain a Pod, and the Pods' chains one after the other.
func programFlat(ctx context.Context, w *workload) (time.Duration, error) {
	variant, err := iptables.Detect(ctx)
	if err != nil {
		return 0, err
	}
	kernel, err := iptables.Open(ctx, inet.IPv4, variant)
	if err != nil {
		return 0, err
	}
	input := flat(w)
	began := time.Now()
	err = kernel.Restore(ctx, input)
	return time.Since(began), err
}

// flat is the input for iptables-restore.
func flat(w *workload) string {
	f := flatter{w: w, namespaces: map[string]map[string]string{}}
	for _, n := range w.namespaces {
		f.namespaces[n.name] = n.labels
	}
	var chains, jumps, rules strings.Builder
	jumps.WriteString("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n")
	for i, p := range w.policies {
		fmt.Fprintf(&chains, ":POLICY-%d-IN - [0:0]\n:POLICY-%d-OUT - [0:0]\n", i, i)
		for _, r := range p.Spec.Ingress {
			f.rule(&rules, fmt.Sprintf("POLICY-%d-IN", i), "-s", p, r.From, r.Ports)
		}
		for _, r := range p.Spec.Egress {
			f.rule(&rules, fmt.Sprintf("POLICY-%d-OUT", i), "-d", p, r.To, r.Ports)
		}
	}
	for i, p := range w.pods {
		in, out := f.isolating(p)
		for _, side := range []struct {
			suffix, flag string
			policies     []int
		}{{"IN", "-d", in}, {"OUT", "-s", out}} {
			if len(side.policies) == 0 {
				continue
			}
			fmt.Fprintf(&chains, ":POD-%d-%s - [0:0]\n", i, side.suffix)
			fmt.Fprintf(&jumps, "-A FORWARD %s %s -j POD-%d-%s\n", side.flag, p.ip, i, side.suffix)
			for _, policy := range side.policies {
				fmt.Fprintf(&rules, "-A POD-%d-%s -j POLICY-%d-%s\n", i, side.suffix, policy, side.suffix)
			}
			fmt.Fprintf(&rules, "-A POD-%d-%s -j REJECT\n", i, side.suffix)
		}
	}
	return "*filter\n" + chains.String() + jumps.String() + rules.String() + "COMMIT\n"
}

type flatter struct {
	w          *workload
	namespaces map[string]map[string]string // their labels
}

// rule writes a rule for each peer's address and each port.
func (f flatter) rule(b *strings.Builder, chain, flag string, p *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	for _, addr := range f.addresses(p.Namespace, peers) {
		for _, port := range ports {
			fmt.Fprintf(b, "-A %s %s %s -p tcp --dport %d -j ACCEPT\n", chain, flag, addr, port.Port.IntValue())
		}
	}
}

// addresses of peers. Exceptions of blocks are left out: they would make the
// flat rules longer still.
func (f flatter) addresses(own string, peers []networkingv1.NetworkPolicyPeer) []string {
	var addrs []string
	for _, peer := range peers {
		if peer.IPBlock != nil {
			addrs = append(addrs, peer.IPBlock.CIDR)
			continue
		}
		m, err := peerModel(peer)
		if err != nil {
			continue // policyModel says so
		}
		for _, p := range f.w.pods {
			inside := p.namespace == own
			if m.Namespaces != nil {
				inside = m.Namespaces.Matches(labels.Set(f.namespaces[p.namespace]))
			}
			if inside && m.Pods.Matches(labels.Set(p.labels)) {
				addrs = append(addrs, p.ip.String())
			}
		}
	}
	return addrs
}

// isolating are the numbers of the policies that isolate a local Pod.
func (f flatter) isolating(p pod) (in, out []int) {
	if p.node != localNode {
		return nil, nil
	}
	for i, policy := range f.w.policies {
		if policy.Namespace != p.namespace || policy.Spec.PodSelector.MatchLabels["app"] != p.labels["app"] {
			continue
		}
		in = append(in, i)
		if slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			out = append(out, i)
		}
	}
	return in, out
}
