package watch

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/kube-router/kube-router/internal/cluster"
)

// waitingPeriod is how often Run says what it still waits for.
const waitingPeriod = 10 * time.Second

// steady is how long a watch runs before it counts as a good one, after which
// the delays between attempts start anew.
const steady = 10 * time.Second

// withoutHeadless spares the agent Services without a virtual address, and
// their endpoints: of some databases and queues these are the most of all.
const withoutHeadless = "!" + corev1.IsHeadlessService

// resource is one kind of object: where the API has it, and where it goes.
type resource struct {
	name     string // "endpointslices"
	version  schema.GroupVersion
	selector string // of labels
	object   runtime.Object
	store    interface {
		cache.ReflectorStore
		decode(object []byte) (runtime.Object, error)
	}
}

// Run watches what the feeds want until ctx ends, through every outage of the
// API server, and then returns nil.
func (c *Client) Run(ctx context.Context, feeds *cluster.Feeds) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, r := range c.wanted(feeds) {
		wg.Go(func() { c.follow(ctx, r) })
	}
	wg.Go(func() { c.recorder.run(ctx) })
	wg.Go(func() { c.awaitLists(ctx, feeds) })
	<-ctx.Done()
	return nil
}

// wanted are the resources of the feeds that somebody subscribed to.
func (c *Client) wanted(f *cluster.Feeds) []resource {
	core, discovery, networking := corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion
	var list []resource
	add := func(wanted bool, r resource) {
		if wanted {
			list = append(list, r)
		}
	}
	add(f.Nodes.Wanted(), resource{"nodes", core, "", &corev1.Node{}, newStore("Node", nodeFrom, &f.Nodes, c.recorder)})
	add(f.Services.Wanted(), resource{"services", core, withoutHeadless, &corev1.Service{}, newStore("Service", serviceFrom, &f.Services, c.recorder)})
	add(f.EndpointSlices.Wanted(), resource{"endpointslices", discovery, withoutHeadless, &discoveryv1.EndpointSlice{}, newStore("EndpointSlice", endpointSliceFrom, &f.EndpointSlices, c.recorder)})
	add(f.Pods.Wanted(), resource{"pods", core, "", &corev1.Pod{}, newStore("Pod", podFrom, &f.Pods, c.recorder)})
	add(f.Namespaces.Wanted(), resource{"namespaces", core, "", &corev1.Namespace{}, newStore("Namespace", namespaceFrom, &f.Namespaces, c.recorder)})
	add(f.NetworkPolicies.Wanted(), resource{"networkpolicies", networking, "", &networkingv1.NetworkPolicy{}, newStore("NetworkPolicy", networkPolicyFrom, &f.NetworkPolicies, c.recorder)})
	return list
}

// follow keeps one resource's store up to date until ctx ends.
func (c *Client) follow(ctx context.Context, r resource) {
	logger := quietLogger(c.log)
	ctx = klog.NewContext(ctx, logger)
	reflector := cache.NewReflectorWithOptions(c.listerWatcher(r), r.object, r.store, cache.ReflectorOptions{
		Logger:          &logger,
		Name:            r.name,
		TypeDescription: r.name,
	})
	var d delays
	for ctx.Err() == nil {
		begin := time.Now()
		err := reflector.ListAndWatchWithContext(ctx)
		if err != nil && ctx.Err() == nil {
			c.link.refuse(r.name, err)
		}
		if time.Since(begin) > steady {
			d.reset()
		}
		d.wait(ctx)
	}
}

// listerWatcher makes the requests for a resource. What the API server does
// not answer is repeated here, so that a reflector never lists anew because of
// a lost connection.
func (c *Client) listerWatcher(r resource) cache.ListerWatcher {
	client, lists := c.clients[r.version], c.lists[r.version]
	return plainLists{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = r.selector
			return untilAnswered(ctx, c.link, func() (runtime.Object, error) {
				return readList(ctx, lists.Get().Resource(r.name).VersionedParams(&o, c.codecs), r.store.decode, listSilence)
			})
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.Watch = true
			o.LabelSelector = r.selector
			w, err := untilAnswered(ctx, c.link, func() (apiwatch.Interface, error) {
				return client.Get().Resource(r.name).VersionedParams(&o, c.codecs).Watch(ctx)
			})
			if err == nil {
				c.link.granted(r.name)
			}
			return w, err
		},
	}}
}

// plainLists asks for lists as lists and not as a stream of events (KEP-3157):
// the agent's peak of memory is the same, as it converts object by object
// either way, and lists are there sooner. The API server serves them from its
// cache.
type plainLists struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is how a reflector asks.
func (plainLists) IsWatchListSemanticsUnSupported() bool { return true }

// awaitLists says what is waited for as long as a list is missing.
func (c *Client) awaitLists(ctx context.Context, feeds *cluster.Feeds) {
	synced := make(chan struct{})
	go func() {
		if feeds.WaitSynced(ctx) == nil {
			close(synced)
		}
	}()
	ticker := time.NewTicker(waitingPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-synced:
			return
		case <-ticker.C:
			if waiting := feeds.Waiting(); len(waiting) > 0 {
				c.log.Info("waiting for the API server's list of "+strings.Join(waiting, ", "), "server", c.link.server, "because", c.link.why())
			}
		}
	}
}
