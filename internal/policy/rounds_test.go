package policy

import (
	"testing"

	"github.com/kube-router/kube-router/internal/cluster"
)

// roundChanges are what becomes of a policy and of one of the two Pods that it
// isolates.
var roundChanges = map[string]func(w *world){
	"no policy": func(w *world) {
		w.feeds.NetworkPolicies.Delete(cluster.Key{Namespace: "red", Name: "isolate"})
	},
	"a policy of ingress": func(w *world) { w.policy(isolate(true, false)) },
	"a policy of egress":  func(w *world) { w.policy(isolate(false, true)) },
	"a policy of both":    func(w *world) { w.policy(isolate(true, true)) },
	"the pod is gone": func(w *world) {
		w.feeds.Pods.Delete(cluster.Key{Namespace: "red", Name: "web"})
	},
	"the pod is another's": func(w *world) { w.pod(newPod("red", "web", "node1", "10.244.1.7", "app=other")) },
	"the pod has moved":    func(w *world) { w.pod(newPod("red", "web", "node1", "10.244.1.9", "app=web")) },
	"the pod is back":      func(w *world) { w.pod(newPod("red", "web", "node1", "10.244.1.7", "app=web")) },
}

// isolate is a policy that isolates the web Pods in some directions.
func isolate(in, out bool) *cluster.NetworkPolicy {
	return &cluster.NetworkPolicy{
		Meta: cluster.Meta{Key: cluster.Key{Namespace: "red", Name: "isolate"}},
		Pods: selects("app=web"), IsolatesIngress: in, IsolatesEgress: out,
	}
}

// What is learnt after the keys of a round were taken, and before they are
// compiled, breaks nothing: the kernel takes what the round makes, and what is
// left is done by the next one.
func TestChangesDuringARound(t *testing.T) {
	for before, start := range roundChanges {
		for first, do := range roundChanges {
			for then, meanwhile := range roundChanges {
				w := newDualWorld()
				w.pod(newPod("red", "web", "node1", "10.244.1.7", "app=web"))
				w.pod(newPod("red", "web-2", "node1", "10.244.1.8", "app=web"))
				w.policy(isolate(true, true))
				start(w)
				w.settle(t)
				do(w)
				if len(w.c.queue.Pending()) == 0 {
					continue // nothing has changed
				}
				keys := w.c.queue.Take(t.Context())
				meanwhile(w)
				w.c.work(t.Context(), keys)
				if err := w.work(); err != nil {
					t.Errorf("from %q to %q, and meanwhile %q: %v", before, first, then, err)
					continue
				}
				w.asIfFresh(t)
			}
		}
	}
}
