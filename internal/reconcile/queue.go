// Package reconcile holds what the controllers share on the way from a change
// to the kernel: a queue of dirty keys that coalesces, retries with backoff
// and can be asked what is still pending, and the difference of two states.
package reconcile

import (
	"context"
	"slices"
	"sync"
	"time"
)

// The delays before a failed key is due again: doubled from the first to the
// longest.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = 30 * time.Second
)

// Queue is a set of dirty keys. A key that is marked many times before it is
// taken is due once; a key that failed is due again after a delay, or at once
// when it is marked anew. It is safe for concurrent use.
type Queue[K comparable] struct {
	// Landed is told of each key that became clean, and since when it was dirty.
	// It must not call the Queue. It is set before first use; nil is allowed.
	Landed func(key K, since time.Time)

	mu      sync.Mutex
	items   map[K]*item
	order   []K // keys that are due now, in the order they became so
	changed chan struct{}
	// marked is when the first key was marked since the last Take, or zero.
	// Thousands of keys are marked at once, and asking for the time is dear
	// where it is a system call.
	marked time.Time
	// busy is since when the keys of the last Take are worked on, zero between
	// Takes; last is when the work before that ended.
	busy, last time.Time
}

type item struct {
	since    time.Time // when the key first became dirty, or shortly before
	queued   bool      // in order
	taken    bool      // handed out by Take and not settled yet
	again    time.Time // when it was first marked while taken, else zero
	attempts int       // since the last success
	err      error
	timer    *time.Timer
}

// Pending is a key that is not settled yet.
type Pending[K comparable] struct {
	Key      K
	Since    time.Time
	Attempts int
	// Err is what the last attempt failed with, or nil.
	Err error
}

// NewQueue returns an empty Queue.
func NewQueue[K comparable]() *Queue[K] {
	return &Queue[K]{items: map[K]*item{}, changed: make(chan struct{}, 1)}
}

// Mark makes keys dirty.
func (q *Queue[K]) Mark(keys ...K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		it := q.items[key]
		if it == nil {
			it = &item{since: q.now()}
			q.items[key] = it
		}
		switch {
		case !it.taken:
			q.enqueue(key, it)
		case it.again.IsZero():
			it.again = q.now()
		}
	}
}

// now is the time of a mark. The caller holds the lock.
func (q *Queue[K]) now() time.Time {
	if q.marked.IsZero() {
		q.marked = time.Now()
	}
	return q.marked
}

// enqueue makes a key due. The caller holds the lock.
func (q *Queue[K]) enqueue(key K, it *item) {
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
	if it.queued {
		return
	}
	it.queued = true
	q.order = append(q.order, key)
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// Take waits until a key is due and returns all that are, oldest first. Each
// must be settled with Settle. It returns nil once ctx ended, even where keys
// are due.
//
// A call of Take says that the work on the keys of the one before has ended.
func (q *Queue[K]) Take(ctx context.Context) []K {
	q.rest()
	for ctx.Err() == nil {
		if keys := q.takeDue(); keys != nil {
			return keys
		}
		select {
		case <-q.changed:
		case <-ctx.Done():
		}
	}
	return nil
}

// rest notes that no key is worked on.
func (q *Queue[K]) rest() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.busy.IsZero() {
		q.busy, q.last = time.Time{}, time.Now()
	}
}

func (q *Queue[K]) takeDue() []K {
	q.mu.Lock()
	defer q.mu.Unlock()
	keys := q.order
	if len(keys) > 0 {
		q.busy = q.begin()
	}
	q.order, q.marked = nil, time.Time{}
	for _, key := range keys {
		it := q.items[key]
		it.queued, it.taken = false, true
		it.attempts++
	}
	return keys
}

// begin is when the work on what is due begins: when it was marked, or when the
// work before that ended. Only what is due for another reason, or was marked
// before anybody worked, needs the clock. The caller holds the lock.
func (q *Queue[K]) begin() time.Time {
	switch {
	case q.marked.IsZero() || q.last.IsZero():
		return time.Now()
	case q.marked.Before(q.last):
		return q.last
	}
	return q.marked
}

// Settle ends the work on a key that Take returned: with nil it is clean,
// unless it was marked meanwhile; with an error it is due again later.
func (q *Queue[K]) Settle(key K, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[key]
	if it == nil || !it.taken {
		return
	}
	it.taken, it.err = false, err
	if err == nil {
		it.attempts = 0
		if q.Landed != nil {
			q.Landed(key, it.since)
		}
	}
	switch {
	case !it.again.IsZero():
		if err == nil {
			it.since = it.again
		}
		it.again = time.Time{}
		q.enqueue(key, it)
	case err == nil:
		delete(q.items, key)
	default:
		q.retryLater(key, it)
	}
}

// retryLater makes a failed key due after a delay, unless it became due
// before. The caller holds the lock.
func (q *Queue[K]) retryLater(key K, it *item) {
	var timer *time.Timer
	timer = time.AfterFunc(retryDelay(it.attempts), func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		// A timer that was stopped too late is no longer the item's.
		if it.timer == timer {
			q.enqueue(key, it)
		}
	})
	it.timer = timer
}

func retryDelay(attempts int) time.Duration {
	delay := firstRetry
	for range attempts - 1 {
		if delay *= 2; delay >= longestRetry {
			return longestRetry
		}
	}
	return delay
}

// Progress is how far the work on a Queue is. It is told without waiting for
// whoever works, so that one who hangs can be found out.
type Progress struct {
	// Busy is since when the keys of the last Take are worked on; zero while
	// nothing is due.
	Busy time.Time
	// Last is when the last round of work ended; zero before the first did.
	Last time.Time
}

// Progress returns the present state.
func (q *Queue[K]) Progress() Progress {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Progress{Busy: q.busy, Last: q.last}
}

// Pending returns the keys that are not settled, those dirty longest first.
func (q *Queue[K]) Pending() []Pending[K] {
	q.mu.Lock()
	defer q.mu.Unlock()
	pending := make([]Pending[K], 0, len(q.items))
	for key, it := range q.items {
		pending = append(pending, Pending[K]{Key: key, Since: it.since, Attempts: it.attempts, Err: it.err})
	}
	slices.SortFunc(pending, func(a, b Pending[K]) int { return a.Since.Compare(b.Since) })
	return pending
}

// Count is the number of keys that are not settled and fulfil a condition. It
// must not call the Queue.
func (q *Queue[K]) Count(condition func(K) bool) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	count := 0
	for key := range q.items {
		if condition(key) {
			count++
		}
	}
	return count
}
