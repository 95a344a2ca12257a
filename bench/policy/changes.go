package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
)

// changeSamples is how often each kind of change is made.
const changeSamples = 20

// changes measures what changes of the cluster cost.
type changes struct {
	agent *agent
	w     *workload
	rows  []Row
}

// measureChanges is the process that holds 10,000 Pods and 1,000 policies in a
// network namespace of its own. It prints its rows.
func measureChanges(ctx context.Context, out io.Writer) error {
	w := standard(policyCount, policiesPerPod)
	a, took, err := startAgent(ctx, w)
	if err != nil {
		return err
	}
	c := &changes{agent: a, w: w}
	c.add("first programming ("+string(a.variant)+")", []time.Duration{took}, a.counter.now())
	for _, measure := range []func(context.Context) error{c.remotePods, c.localPods, c.ports, c.peers} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	if err := c.restart(ctx); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(c.rows)
}

// add notes a row. The operations are of all samples.
func (c *changes) add(what string, samples []time.Duration, o operations) {
	c.rows = append(c.rows, Row{What: what, Policies: policyCount, Time: spreadOf(samples), Operations: perSample(o, len(samples))})
}

// measure makes each of the changes once.
func (c *changes) measure(ctx context.Context, what string, do func(i int)) error {
	samples, err := c.samples(ctx, what, changeSamples, do)
	if err != nil {
		return err
	}
	c.add(what, samples.times, samples.operations)
	return nil
}

type samples struct {
	times      []time.Duration
	operations operations
}

func (c *changes) samples(ctx context.Context, what string, n int, do func(i int)) (s samples, err error) {
	before := c.agent.counter.now()
	for i := range n {
		took, o, err := c.agent.change(ctx, func() { do(i) })
		if err != nil {
			return s, fmt.Errorf("%s, the %d. time: %w", what, i+1, err)
		}
		if o.Sets+o.Rules == 0 {
			return s, fmt.Errorf("%s, the %d. time: the kernel was not asked for anything", what, i+1)
		}
		s.times = append(s.times, took)
	}
	s.operations = c.agent.counter.now().minus(before)
	return s, nil
}

// remotePods come to another node and go again. Each is a peer of policies.
func (c *changes) remotePods(ctx context.Context) error {
	remote := func(i int) pod {
		return pod{
			namespace: namespaceName(i % namespaceCount), name: fmt.Sprint("new-", i), node: nodeName(50),
			labels: map[string]string{"app": "new", "tier": tierName(i % tiers)}, ip: podAddr(50, podsPerNode+i),
		}
	}
	return c.comeAndGo(ctx, remoteAdded, remoteRemoved, remote)
}

// localPods come to this node and go again. Each is isolated by the policies
// of a Pod that is there.
func (c *changes) localPods(ctx context.Context) error {
	local := func(i int) pod {
		like := c.w.pods[i]
		return pod{namespace: like.namespace, name: fmt.Sprint("new-", i), node: localNode, labels: like.labels, ip: podAddr(0, podsPerNode+i)}
	}
	return c.comeAndGo(ctx, localAdded, localRemoved, local)
}

func (c *changes) comeAndGo(ctx context.Context, added, removed string, of func(i int) pod) error {
	if err := c.measure(ctx, added, func(i int) { c.agent.setPod(of(i)) }); err != nil {
		return err
	}
	if err := c.inSets(of, true); err != nil {
		return err
	}
	if err := c.measure(ctx, removed, func(i int) { c.agent.deletePod(of(i)) }); err != nil {
		return err
	}
	return c.inSets(of, false)
}

// inSets holds the kernel's sets against what was asked for.
func (c *changes) inSets(of func(i int) pod, want bool) error {
	placed, err := c.agent.placed()
	if err != nil {
		return err
	}
	for i := range changeSamples {
		if p := of(i); placed[p.ip] > 0 != want {
			return fmt.Errorf("pod %s: %d of the kernel's sets hold %s", p.key(), placed[p.ip], p.ip)
		}
	}
	return nil
}

// ports changes the port of a rule, of policies here and there.
func (c *changes) ports(ctx context.Context) error {
	return c.policies(ctx, portChanged, func(p *networkingv1.NetworkPolicy, i int) *networkingv1.NetworkPolicy {
		return withPort(p, 20000+i)
	})
}

// peers changes who is allowed by a rule.
func (c *changes) peers(ctx context.Context) error {
	return c.policies(ctx, peerChanged, func(p *networkingv1.NetworkPolicy, i int) *networkingv1.NetworkPolicy {
		return withTier(p, tierName(i%tiers))
	})
}

func (c *changes) policies(ctx context.Context, what string, edit func(p *networkingv1.NetworkPolicy, i int) *networkingv1.NetworkPolicy) error {
	random := rand.New(rand.NewPCG(1, uint64(len(what))))
	picked := random.Perm(len(c.w.policies))
	var failed error
	err := c.measure(ctx, what, func(i int) {
		m, err := policyModel(edit(c.w.policies[picked[i]], i))
		if err != nil {
			failed = err
			return
		}
		c.agent.feeds.NetworkPolicies.Set(m.Key, m)
	})
	if failed != nil {
		return failed
	}
	return err
}

// restart starts another agent over the kernel as it is. It changes nothing.
func (c *changes) restart(ctx context.Context) error {
	for _, p := range c.w.policies { // as they were
		m, err := policyModel(p)
		if err != nil {
			return err
		}
		c.agent.feeds.NetworkPolicies.Set(m.Key, m)
	}
	if err := c.agent.settle(ctx); err != nil {
		return err
	}
	fresh, took, err := startAgent(ctx, c.w)
	if err != nil {
		return err
	}
	c.add("restart", []time.Duration{took}, fresh.counter.now())
	return nil
}
