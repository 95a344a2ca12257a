package cluster

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// Change is one object's step from Old to New. Old is nil where the object
// appears, New where it goes.
type Change[T any] struct{ Old, New *T }

// Feed holds the present objects of one kind and hands every change to its
// subscribers, in order. An object that equals the present one is no change:
// most updates of the API (a node's heartbeat, a pod's conditions) touch
// nothing that the model keeps. A Feed that nobody subscribed to is not
// Wanted: the watch behind it is never opened.
type Feed[T any] struct {
	mu          sync.Mutex
	objects     map[Key]*T
	subscribers []func(Change[T])
	synced      chan struct{}
	syncOnce    sync.Once
}

func newFeed[T any]() Feed[T] {
	return Feed[T]{objects: map[Key]*T{}, synced: make(chan struct{})}
}

// Subscribe calls fn for every later change. It is for the time before the
// watches start; fn runs while the Feed is locked, so it only takes note.
func (f *Feed[T]) Subscribe(fn func(Change[T])) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribers = append(f.subscribers, fn)
}

// Wanted says whether anybody subscribed.
func (f *Feed[T]) Wanted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subscribers) > 0
}

// Set publishes an object that is new or has changed.
func (f *Feed[T]) Set(key Key, object *T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(key, object)
}

// Delete publishes that an object is gone.
func (f *Feed[T]) Delete(key Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delete(key)
}

// Replace publishes the differences between the present objects and all, and
// marks the Feed synced: all is the whole truth. What is gone is published
// before what is new, so that an address can move from one to the other.
func (f *Feed[T]) Replace(all map[Key]*T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.objects {
		if all[key] == nil {
			f.delete(key)
		}
	}
	for key, object := range all {
		f.set(key, object)
	}
	f.syncOnce.Do(func() { close(f.synced) })
}

func (f *Feed[T]) set(key Key, object *T) {
	old := f.objects[key]
	if old != nil && reflect.DeepEqual(old, object) {
		return
	}
	f.objects[key] = object
	f.publish(Change[T]{Old: old, New: object})
}

func (f *Feed[T]) delete(key Key) {
	old := f.objects[key]
	if old == nil {
		return
	}
	delete(f.objects, key)
	f.publish(Change[T]{Old: old})
}

func (f *Feed[T]) publish(c Change[T]) {
	for _, fn := range f.subscribers {
		fn(c)
	}
}

// Synced is closed once the Feed has held the whole list of its objects.
func (f *Feed[T]) Synced() <-chan struct{} { return f.synced }

// Feeds are the kinds of objects that the agent watches.
type Feeds struct {
	Nodes           Feed[Node]
	Services        Feed[Service]
	EndpointSlices  Feed[EndpointSlice]
	Pods            Feed[Pod]
	Namespaces      Feed[Namespace]
	NetworkPolicies Feed[NetworkPolicy]
}

// NewFeeds returns empty Feeds without subscribers.
func NewFeeds() *Feeds {
	return &Feeds{
		Nodes:           newFeed[Node](),
		Services:        newFeed[Service](),
		EndpointSlices:  newFeed[EndpointSlice](),
		Pods:            newFeed[Pod](),
		Namespaces:      newFeed[Namespace](),
		NetworkPolicies: newFeed[NetworkPolicy](),
	}
}

// feed is what WaitSynced needs of a Feed of any kind.
type feed interface {
	Wanted() bool
	Synced() <-chan struct{}
}

func (f *Feeds) byName() ([]string, map[string]feed) {
	return []string{"nodes", "services", "endpointslices", "pods", "namespaces", "networkpolicies"},
		map[string]feed{
			"nodes": &f.Nodes, "services": &f.Services, "endpointslices": &f.EndpointSlices,
			"pods": &f.Pods, "namespaces": &f.Namespaces, "networkpolicies": &f.NetworkPolicies,
		}
}

// WaitSynced waits until every wanted Feed has had its whole list. Its error
// names the Feeds that had not when ctx ended.
func (f *Feeds) WaitSynced(ctx context.Context) error {
	names, feeds := f.byName()
	for _, name := range names {
		if !feeds[name].Wanted() {
			continue
		}
		select {
		case <-feeds[name].Synced():
		case <-ctx.Done():
			return fmt.Errorf("no list yet of %s: %w", strings.Join(f.Waiting(), ", "), context.Cause(ctx))
		}
	}
	return nil
}

// Waiting names the wanted Feeds that have not had their list yet.
func (f *Feeds) Waiting() []string {
	var waiting []string
	names, feeds := f.byName()
	for _, name := range names {
		select {
		case <-feeds[name].Synced():
		default:
			if feeds[name].Wanted() {
				waiting = append(waiting, name)
			}
		}
	}
	return waiting
}

// Reporter tells users what is wrong with one of their objects, as an Event
// on it. Reports are deduplicated and never block.
type Reporter interface {
	// Warn reports a Warning Event. kind is the API kind ("Service"), reason
	// is UpperCamelCase, and message says what to do next.
	Warn(kind string, object *Meta, reason, message string)
}
