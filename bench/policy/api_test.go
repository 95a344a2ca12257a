package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/cluster/watch"
)

// The agent sees the same cluster whether the API server tells it or fill.
func TestAgentsSeeTheWorkloadThroughTheAPI(t *testing.T) {
	w := standard(20, policiesPerPod)
	w.pods = w.pods[:500]
	api, err := newAPI(w)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api)
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, kubeconfigText, server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := watch.Open(watch.Options{Kubeconfig: kubeconfig, NodeName: localNode, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	told, filled := cluster.NewFeeds(), cluster.NewFeeds()
	toldObjects, filledObjects := describe(told), describe(filled)
	done := make(chan struct{})
	go func() {
		defer close(done)
		client.Run(ctx, told)
	}()
	err = told.WaitSynced(ctx)
	cancel()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(filled, w); err != nil {
		t.Fatal(err)
	}
	slices.Sort(*toldObjects)
	slices.Sort(*filledObjects)
	if len(*toldObjects) != 50+500+20 || !slices.Equal(*toldObjects, *filledObjects) {
		t.Errorf("by the API: %d objects, %.300q\nby fill: %d objects, %.300q", len(*toldObjects), *toldObjects, len(*filledObjects), *filledObjects)
	}
}

// describe collects what the feeds publish, in words.
func describe(feeds *cluster.Feeds) *[]string {
	var mu sync.Mutex
	var all []string
	add := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, text)
	}
	feeds.Namespaces.Subscribe(func(c cluster.Change[cluster.Namespace]) {
		add(fmt.Sprint("namespace ", c.New.Key, c.New.Labels))
	})
	feeds.Pods.Subscribe(func(c cluster.Change[cluster.Pod]) {
		p := c.New
		add(fmt.Sprint("pod ", p.Key, p.Labels, p.IPs, p.Node, p.HostNetwork, p.Finished, p.Ports))
	})
	feeds.NetworkPolicies.Subscribe(func(c cluster.Change[cluster.NetworkPolicy]) {
		p := c.New
		text := fmt.Sprint("policy ", p.Key, p.Pods, p.IsolatesIngress, p.IsolatesEgress)
		for _, rules := range [][]cluster.PolicyRule{p.Ingress, p.Egress} {
			for _, r := range rules {
				text += fmt.Sprint(" rule ", r.AnyPeer, r.AnyPort, r.Ports)
				for _, peer := range r.Peers {
					text += fmt.Sprint(" ", peer.Namespaces, peer.Pods)
					if peer.Block != nil {
						text += fmt.Sprint(*peer.Block)
					}
				}
			}
		}
		add(text)
	})
	return &all
}
