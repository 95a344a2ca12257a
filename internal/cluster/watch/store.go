package watch

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/kube-router/kube-router/internal/cluster"
)

// store is where a reflector puts the objects of one kind. It keeps none of
// the API's objects: each is converted at once and handed to the feed.
//
// A reflector calls it from one goroutine.
type store[A, T any, P object[A]] struct {
	kind    string
	convert func(P) (cluster.Key, *T)
	feed    *cluster.Feed[T]
	events  cluster.Reporter
	// reported holds what was last reported of each object with problems, so
	// that an update of something else in it is quiet.
	reported map[cluster.Key]string
	// lean and scratch are what decode reads from and into.
	lean    []byte
	scratch A
}

// object is a pointer to an object of the API, which reads itself from
// protobuf.
type object[A any] interface {
	*A
	Reset()
	Unmarshal([]byte) error
}

func newStore[A, T any, P object[A]](kind string, convert func(P) (cluster.Key, *T), feed *cluster.Feed[T], events cluster.Reporter) *store[A, T, P] {
	return &store[A, T, P]{kind: kind, convert: convert, feed: feed, events: events, reported: map[cluster.Key]string{}}
}

var _ cache.ReflectorStore = (*store[corev1.Node, cluster.Node, *corev1.Node])(nil)

// converted is an object of the API that was converted.
type converted[T any] struct {
	key    cluster.Key
	object *T // nil where the object is not served
}

// from converts what a reflector hands on.
func (s *store[A, T, P]) from(o any) (*converted[T], error) {
	if c, ok := o.(*converted[T]); ok {
		return c, nil
	}
	a, ok := o.(P)
	if !ok {
		return nil, fmt.Errorf("%T is not a %s", o, s.kind)
	}
	key, object := s.convert(a)
	return &converted[T]{key, object}, nil
}

// decode reads an object of a list. What is read into is used again: nothing
// that is converted refers to it.
func (s *store[A, T, P]) decode(text []byte) (runtime.Object, error) {
	s.lean = appendLean(s.lean[:0], text)
	a := P(&s.scratch)
	a.Reset()
	if err := a.Unmarshal(s.lean); err != nil {
		return nil, fmt.Errorf("%s: %w", s.kind, err)
	}
	return s.from(a)
}

// Add publishes an object that appeared.
func (s *store[A, T, P]) Add(o any) error {
	c, err := s.from(o)
	if err != nil {
		return err
	}
	if c.object == nil {
		s.delete(c.key)
		return nil
	}
	s.feed.Set(c.key, c.object)
	s.report(c)
	return nil
}

// Update publishes an object that changed.
func (s *store[A, T, P]) Update(o any) error { return s.Add(o) }

// Delete publishes that an object is gone.
func (s *store[A, T, P]) Delete(o any) error {
	c, err := s.from(o)
	if err != nil {
		return err
	}
	s.delete(c.key)
	return nil
}

func (s *store[A, T, P]) delete(key cluster.Key) {
	s.feed.Delete(key)
	delete(s.reported, key)
}

// Replace publishes the whole list.
func (s *store[A, T, P]) Replace(list []any, _ string) error {
	all := make(map[cluster.Key]*T, len(list))
	var faulty []*converted[T]
	for i, o := range list {
		c, err := s.from(o)
		if err != nil {
			return err
		}
		list[i] = nil // let the full object go
		if c.object == nil {
			continue
		}
		all[c.key] = c.object
		if len(identity(c.object).Problems) > 0 {
			faulty = append(faulty, c)
		}
	}
	s.feed.Replace(all)
	for key := range s.reported {
		if all[key] == nil {
			delete(s.reported, key)
		}
	}
	for _, c := range faulty {
		s.report(c)
	}
	return nil
}

// Resync has nothing to do: controllers resync themselves.
func (s *store[A, T, P]) Resync() error { return nil }

// report tells users what was left out of an object, once.
func (s *store[A, T, P]) report(c *converted[T]) {
	meta := identity(c.object)
	if len(meta.Problems) == 0 {
		delete(s.reported, c.key)
		return
	}
	words := strings.Join(meta.Problems, "; ")
	if id := meta.UID + " " + words; s.reported[c.key] != id {
		s.reported[c.key] = id
		s.events.Warn(s.kind, meta, "PartIgnored", words)
	}
}

func identity[T any](object *T) *cluster.Meta { return any(object).(cluster.Object).Identity() }
