package policy

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/kube-router/kube-router/internal/cluster"
)

// player brings a world from one cluster to the next, by detours.
type player struct {
	dice
	*world
	now   *objects
	told  []string // the events so far
	flows int
}

// event is one thing that the agent learns.
type event struct {
	text string
	do   func()
}

// play makes a cluster of the present one: the events of each object in their
// order, with some that the end knows nothing of, those of all objects mixed.
// Sometimes the agent works in between. In the end the cluster is judged.
func (p *player) play(next *objects) error {
	lanes := p.lanes(next)
	for len(lanes) > 0 {
		i := p.IntN(len(lanes))
		p.learn(lanes[i][0])
		if lanes[i] = lanes[i][1:]; len(lanes[i]) == 0 {
			lanes = slices.Delete(lanes, i, i+1)
		}
		if p.one(12) {
			p.told = append(p.told, "work")
			if err := p.work(); err != nil {
				return err
			}
		}
	}
	p.told = append(p.told, "work, judge")
	p.now = next
	if err := p.work(); err != nil {
		return err
	}
	return p.check(next, func() []target {
		targets := p.someTargets()
		p.flows += len(targets)
		return targets
	})
}

// learn tells the agent of an event, sometimes during a round of its work.
func (p *player) learn(e event) {
	if !p.one(8) || len(p.c.queue.Pending()) == 0 {
		p.told = append(p.told, e.text)
		e.do()
		return
	}
	keys := p.c.queue.Take(context.Background())
	p.told = append(p.told, "take", e.text, "work on what was taken")
	e.do()
	p.c.work(context.Background(), keys) // what fails is due still
}

// lanes are the events of each object that is there now or shall be.
func (p *player) lanes(next *objects) (lanes [][]event) {
	lanes = append(lanes, lanesOf(p, "namespace", p.now.namespaces, next.namespaces,
		p.setNamespace, p.feeds.Namespaces.Delete, func(ns *corev1.Namespace) *corev1.Namespace {
			return p.drawNamespace(ns.Name, p.labels(2))
		})...)
	lanes = append(lanes, lanesOf(p, "pod", p.now.pods, next.pods,
		p.setPod, p.feeds.Pods.Delete, func(pod *corev1.Pod) *corev1.Pod {
			other := p.drawPod(nil, pod.Name) // with an address that others may have at that time
			other.Namespace = pod.Namespace
			return other
		})...)
	return append(lanes, lanesOf(p, "policy", p.now.policies, next.policies,
		p.setPolicy, p.feeds.NetworkPolicies.Delete, func(np *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
			other := p.drawPolicy(np.Name)
			other.Namespace = np.Namespace
			return other
		})...)
}

// named is any object of the API.
type named interface {
	comparable
	GetNamespace() string
	GetName() string
}

func lanesOf[T named](p *player, kind string, now, next []T, set func(T), del func(cluster.Key), other func(T) T) (lanes [][]event) {
	key := func(o T) cluster.Key { return cluster.Key{Namespace: o.GetNamespace(), Name: o.GetName()} }
	deleted := func(o T) event { return event{fmt.Sprintf("delete %s %s", kind, key(o)), func() { del(key(o)) }} }
	is := func(verb string, o T) event {
		return event{fmt.Sprintf("%s %s %s", verb, kind, key(o)), func() { set(o) }}
	}
	for _, o := range now {
		if !slices.ContainsFunc(next, func(n T) bool { return key(n) == key(o) }) {
			lanes = append(lanes, []event{deleted(o)})
		}
	}
	for _, o := range next {
		var lane []event
		for p.one(4) {
			lane = append(lane, pick(p.dice, is("other", other(o)), deleted(o), is("set", o)))
		}
		lane = append(lane, is("set", o))
		if p.one(10) {
			lane = append(lane, is("set again", o))
		}
		lanes = append(lanes, lane)
	}
	return lanes
}

// changed is a cluster some time later: a few of its objects are other ones,
// gone or new. An address of a Pod that ends goes to another one.
func (d dice) changed(o *objects) *objects {
	o = o.clone()
	for range d.between(1, 3) {
		switch d.IntN(5) {
		case 0:
			i := d.IntN(len(o.namespaces))
			o.namespaces[i] = d.drawNamespace(o.namespaces[i].Name, d.labels(2))
		case 1:
			if i := d.IntN(len(o.policies) + 1); i < len(o.policies) {
				namespace := o.policies[i].Namespace
				o.policies[i] = d.drawPolicy(o.policies[i].Name)
				o.policies[i].Namespace = namespace
			} else {
				o.policies = append(o.policies, d.drawPolicy(fmt.Sprint("policy", d.Uint32())))
			}
		case 2:
			if len(o.policies) > 0 {
				i := d.IntN(len(o.policies))
				o.policies = slices.Delete(o.policies, i, i+1)
			}
		case 3:
			o.pods = append(o.pods, d.drawPod(o, fmt.Sprint("pod", d.Uint32())))
		default:
			d.changePod(o)
		}
	}
	return o
}

func (d dice) changePod(o *objects) {
	if len(o.pods) == 0 {
		return
	}
	i := d.IntN(len(o.pods))
	old := o.pods[i]
	o.pods = slices.Delete(o.pods, i, i+1)
	switch d.IntN(4) {
	case 0: // it is gone
	case 1: // it ends, and a new one gets its addresses
		ended := old.DeepCopy()
		ended.Status.Phase = corev1.PodSucceeded
		heir := old.DeepCopy()
		heir.Name, heir.Labels = fmt.Sprint("heir", d.Uint32()), d.labels(1)
		o.pods = append(o.pods, ended, heir)
	case 2: // its labels change
		relabelled := old.DeepCopy()
		relabelled.Labels = d.labels(1)
		o.pods = append(o.pods, relabelled)
	default: // it is made anew, elsewhere
		fresh := d.drawPod(o, old.Name)
		fresh.Namespace = old.Namespace
		o.pods = append(o.pods, fresh)
	}
}
