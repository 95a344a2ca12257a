package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Work is a Pending key as operators read it.
type Work struct {
	What     string
	Since    time.Time
	Attempts int
	Err      error
}

// String is "rules: the kernel refused", or what is to be done alone.
func (w Work) String() string {
	if w.Err == nil {
		return w.What
	}
	return w.What + ": " + w.Reason()
}

// Reason is what the last attempt failed with, on one line, or empty. Errors
// that were joined have lines.
func (w Work) Reason() string {
	if w.Err == nil {
		return ""
	}
	return strings.ReplaceAll(w.Err.Error(), "\n", "; ")
}

// Kind is what kind of thing is to be done: "service" of "service default/web".
// There are few kinds, however large the cluster is.
func (w Work) Kind() string {
	kind, _, _ := strings.Cut(w.What, " ")
	return kind
}

// ErrWaiting is in the errors of work that nothing is wrong with: it waits for
// what is bound to come.
var ErrWaiting = errors.New("not due yet")

// Failed says that the last attempt failed, and not because it waits.
func (w Work) Failed() bool { return w.Err != nil && !errors.Is(w.Err, ErrWaiting) }

// Count is how many objects of a kind ("virtual servers") a controller wants in
// the kernel, and how many of them are there as wanted, as far as is known.
type Count struct {
	Kind                string
	Desired, Programmed int
}

// Work returns what is not settled, longest first.
func (q *Queue[K]) Work() []Work {
	var work []Work
	for _, p := range q.Pending() {
		work = append(work, Work{fmt.Sprint(p.Key), p.Since, p.Attempts, p.Err})
	}
	return work
}
