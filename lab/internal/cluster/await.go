package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/progress"
)

// await waits for the cluster to become usable, step by step.
func (l *Lab) await(log *progress.Log, w *watch, a *api, s *state) error {
	o := s.Options
	err := log.Step("waiting for the nodes to register", func() error {
		return w.until(func(ctx context.Context) error { return l.registered(ctx, a, s) })
	})
	if err != nil || o.Router == RouterNone {
		return err
	}
	steps := []struct {
		name string
		done func(context.Context) error
	}{
		{"waiting for kube-router on every node", func(ctx context.Context) error { return podsReady(ctx, a, "kube-router", o.Nodes) }},
		{"waiting for the nodes to be Ready", func(ctx context.Context) error { return nodesReady(ctx, a) }},
		{"waiting for CoreDNS", func(ctx context.Context) error { return podsReady(ctx, a, "kube-dns", 1) }},
	}
	for _, step := range steps {
		if err := log.Step(step.name, func() error { return w.until(step.done) }); err != nil {
			return err
		}
	}
	return nil
}

// registered waits for all nodes to be there with a pod range each, to which
// the host then gets a route.
func (l *Lab) registered(ctx context.Context, a *api, s *state) error {
	nodes, err := a.nodes(ctx)
	if err != nil {
		return err
	}
	missing := map[string]int{}
	for i := 1; i <= s.Options.Nodes; i++ {
		missing[NodeName(i)] = i
	}
	for _, n := range nodes {
		i, ours := missing[n.Metadata.Name]
		if !ours || len(n.Spec.PodCIDRs) == 0 {
			continue
		}
		for _, pods := range n.Spec.PodCIDRs {
			if err := s.Network.Route(pods, i); err != nil {
				return err
			}
		}
		delete(missing, n.Metadata.Name)
	}
	for name := range missing {
		return fmt.Errorf("%s has not registered; the end of its kubelet's log:\n%s", name,
			tailOf(filepath.Join(l.run(name), "kubelet.log"), 15))
	}
	return nil
}

func nodesReady(ctx context.Context, a *api) error {
	nodes, err := a.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if ok, why := is(n.Status.Conditions, "Ready"); !ok {
			return fmt.Errorf("%s is not Ready: %s", n.Metadata.Name, why)
		}
	}
	return nil
}

// crashes is how often a container may end before waiting is given up.
const crashes = 3

func podsReady(ctx context.Context, a *api, app string, want int) error {
	pods, err := a.pods(ctx, app)
	if err != nil {
		return err
	}
	if len(pods) < want {
		return fmt.Errorf("%d of %d pods k8s-app=%s exist", len(pods), want, app)
	}
	for _, p := range pods {
		if ok, why := is(p.Status.Conditions, "Ready"); !ok {
			return podError(ctx, a, p, why)
		}
	}
	return nil
}

// podError says why a pod is not ready, with the end of its log.
func podError(ctx context.Context, a *api, p pod, why string) error {
	text := []string{fmt.Sprintf("pod %s on %s is not ready: %s %s", p.Metadata.Name, p.Spec.NodeName, p.Status.Phase, why)}
	final := false
	for _, c := range append(p.Status.Init, p.Status.Containers...) {
		if c.State.Waiting != nil && c.State.Waiting.Reason != "PodInitializing" {
			text = append(text, fmt.Sprintf("container %s: %s %s", c.Name, c.State.Waiting.Reason, c.State.Waiting.Message))
		}
		final = final || c.RestartCount >= crashes
		if c.RestartCount == 0 {
			continue
		}
		path := fmt.Sprintf("/api/v1/namespaces/kube-system/pods/%s/log?previous=true&tailLines=15&container=%s", p.Metadata.Name, c.Name)
		if log, err := a.text(ctx, path); err == nil {
			text = append(text, "the end of its log:\n"+log)
		}
	}
	err := fmt.Errorf("%s", strings.Join(text, "\n"))
	if final {
		return &finalError{err}
	}
	return err
}

// explain adds to an error what a person would look at next: when the start
// ran out of time, the state of the pods.
func (l *Lab) explain(w *watch, err error) error {
	if w.ctx.Err() == nil {
		return err
	}
	a, apiErr := newAPI(l.Kubeconfig())
	if apiErr != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), 5*time.Second)
	defer cancel()
	var text []string
	for _, app := range []string{"kube-router", "kube-dns"} {
		pods, listErr := a.pods(ctx, app)
		if listErr != nil {
			return err
		}
		for _, p := range pods {
			if ok, why := is(p.Status.Conditions, "Ready"); !ok {
				text = append(text, podError(ctx, a, p, why).Error())
			}
		}
	}
	if len(text) == 0 {
		return err
	}
	return fmt.Errorf("%w\n%s", err, strings.Join(text, "\n"))
}
