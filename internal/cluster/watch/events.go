package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/time/rate"

	"github.com/kube-router/kube-router/internal/cluster"
)

const (
	component = "kube-router"
	// quietPeriod is how long the same report is not repeated.
	quietPeriod = 10 * time.Minute
	// mostWaiting bounds the reports that wait to be posted: half an hour of
	// them.
	mostWaiting = 4096
	// manyRemembered is when those whose quietPeriod is over are forgotten. It
	// is more than wait and were posted in one.
	manyRemembered = 2 * mostWaiting
	// postTimeout is how long one post may take.
	postTimeout = 10 * time.Second
	// longestMessage is the API's limit for an Event's message.
	longestMessage = 1024
)

// The rates at which Events are posted and reports are logged: a burst for
// what a start finds, then a trickle, whatever users do to their objects. What
// comes faster waits.
const (
	postsPerSecond, postBurst = 2, 50
	linesPerSecond, lineBurst = 2, 100
)

// report identifies what was reported.
type report struct{ object, reason, message string }

// waiting is a report on its way to the API server. It keeps no more of the
// object than its name.
type waiting struct {
	report
	kind   string
	object cluster.Meta
	at     time.Time
	logged bool
}

// Recorder is the cluster.Reporter that logs a report and posts it as an Event.
type Recorder struct {
	node  string
	post  func(context.Context, *corev1.Event) error
	log   *slog.Logger
	posts *rate.Limiter
	wake  chan struct{}

	mu sync.Mutex
	// queue are the reports that wait, the oldest first.
	queue []waiting
	full  bool // and has not been empty since
	// seen is when a report was posted, zero while it waits.
	seen  map[report]time.Time
	lines *rate.Limiter
}

func newRecorder(node string, post func(context.Context, *corev1.Event) error, log *slog.Logger) *Recorder {
	return &Recorder{
		node:  node,
		post:  post,
		log:   log,
		posts: rate.NewLimiter(postsPerSecond, postBurst),
		wake:  make(chan struct{}, 1),
		seen:  map[report]time.Time{},
		lines: rate.NewLimiter(linesPerSecond, lineBurst),
	}
}

// Warn implements cluster.Reporter. Callers report what they find once, so all
// of a burst is kept until there is time for it.
func (r *Recorder) Warn(kind string, object *cluster.Meta, reason, message string) {
	message = truncate(message, longestMessage)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	id := report{subject(kind, object), reason, message}
	if !r.isNew(id, now) || !r.hasRoom() {
		return
	}
	w := waiting{report: id, kind: kind, object: cluster.Meta{Key: object.Key, UID: object.UID}, at: now}
	if r.lines.AllowN(now, 1) {
		r.print(&w)
	}
	r.queue = append(r.queue, w)
	r.seen[id] = time.Time{}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// hasRoom says whether one more report can wait, and logs when that ends. The
// caller holds the lock.
func (r *Recorder) hasRoom() bool {
	if len(r.queue) < mostWaiting {
		return true
	}
	if !r.full {
		r.log.Warn("too many reports wait to be posted as Events; some are forgotten", "waiting", len(r.queue))
	}
	r.full = true
	return false
}

func (r *Recorder) print(w *waiting) {
	w.logged = true
	r.log.Warn(w.message, "kind", w.kind, "object", w.object.Key.String(), "reason", w.reason)
}

// Mended says that what was reported of an object for a reason is over: when it
// comes back it is reported again, however soon. What still waits is not posted.
func (r *Recorder) Mended(kind string, object *cluster.Meta, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	about := subject(kind, object)
	over := func(id report) bool { return id.object == about && id.reason == reason }
	maps.DeleteFunc(r.seen, func(id report, _ time.Time) bool { return over(id) })
	r.queue = slices.DeleteFunc(r.queue, func(w waiting) bool { return over(w.report) })
}

func subject(kind string, object *cluster.Meta) string {
	return kind + " " + object.UID + " " + object.Key.String()
}

// isNew says whether a report neither waits nor was posted lately. The caller
// holds the lock.
func (r *Recorder) isNew(id report, now time.Time) bool {
	old := func(_ report, at time.Time) bool { return !at.IsZero() && now.Sub(at) >= quietPeriod }
	if at, ok := r.seen[id]; ok && !old(id, at) {
		return false
	}
	if len(r.seen) >= manyRemembered {
		maps.DeleteFunc(r.seen, old)
	}
	return true
}

// run posts Events until ctx ends. Failures of the same kind in a row are one
// line.
func (r *Recorder) run(ctx context.Context) {
	failure := ""
	for {
		event := r.next(ctx)
		if event == nil {
			return
		}
		before := failure
		var err error
		if failure, err = r.postOne(ctx, event); failure != "" && failure != before {
			r.log.Warn("cannot post Events, so only this log has them", "object", event.InvolvedObject.Name, "err", err)
		}
	}
}

// next waits for a report and for its turn, logs it if that was not done, and
// returns its Event: nil when ctx ended.
func (r *Recorder) next(ctx context.Context) *corev1.Event {
	for {
		r.mu.Lock()
		idle := len(r.queue) == 0
		r.mu.Unlock()
		if idle {
			select {
			case <-ctx.Done():
				return nil
			case <-r.wake:
			}
			continue
		}
		if r.posts.Wait(ctx) != nil {
			return nil
		}
		if w, ok := r.take(); ok {
			return newEvent(r.node, w.kind, &w.object, w.reason, w.message, w.at)
		}
	}
}

// take removes the oldest report from the queue. There is none where Mended was
// faster.
func (r *Recorder) take() (waiting, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return waiting{}, false
	}
	w := r.queue[0]
	r.queue[0] = waiting{}
	if r.queue = r.queue[1:]; len(r.queue) == 0 {
		r.queue, r.full = nil, false
	}
	if !w.logged {
		r.print(&w)
	}
	r.seen[w.report] = time.Now()
	return w, true
}

// postOne posts an Event. The kind of its failure is empty after success. An
// Event that exists already was made by another node's agent.
func (r *Recorder) postOne(ctx context.Context, event *corev1.Event) (failure string, err error) {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	err = r.post(ctx, event)
	if err == nil || apierrors.IsAlreadyExists(err) {
		return "", nil
	}
	return "post " + string(apierrors.ReasonForError(err)), err
}

// newEvent makes the Event of a report. Its name is a hash of what it says and of
// the hour, so that the agents of all nodes, who find the same fault in the same
// object, make one Event of it, and one that is reported again is there again:
// the API server removes Events after an hour.
func newEvent(node, kind string, object *cluster.Meta, reason, message string, now time.Time) *corev1.Event {
	namespace := object.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where Events of cluster-scoped objects live
	}
	hour := now.UTC().Truncate(time.Hour).Format(time.RFC3339)
	sum := sha256.Sum256([]byte(strings.Join([]string{kind, object.UID, reason, message, hour}, "\x00")))
	name := strings.TrimRight(truncate(object.Name, 200), ".-")
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", name, sum[:8])},
		InvolvedObject: corev1.ObjectReference{
			Kind:       kind,
			APIVersion: apiVersion(kind),
			Namespace:  object.Namespace,
			Name:       object.Name,
			UID:        types.UID(object.UID),
		},
		Type:                corev1.EventTypeWarning,
		Reason:              reason,
		Message:             message,
		Source:              corev1.EventSource{Component: component, Host: node},
		ReportingController: component,
		ReportingInstance:   node,
		FirstTimestamp:      metav1.NewTime(now),
		LastTimestamp:       metav1.NewTime(now),
		Count:               1,
	}
}

func apiVersion(kind string) string {
	switch kind {
	case "EndpointSlice":
		return discoveryv1.SchemeGroupVersion.String()
	case "NetworkPolicy":
		return networkingv1.SchemeGroupVersion.String()
	}
	return corev1.SchemeGroupVersion.String()
}

// truncate cuts s to at most n bytes, between characters.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// postEvent creates an Event.
func (c *Client) postEvent(ctx context.Context, event *corev1.Event) error {
	return c.clients[corev1.SchemeGroupVersion].Post().
		Namespace(event.Namespace).Resource("events").Body(event).
		Do(ctx).Error()
}
