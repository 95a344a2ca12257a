package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
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
	// mostRemembered bounds the reports that are remembered for that.
	mostRemembered = 4096
	// queueLength bounds the Events that wait to be posted.
	queueLength = 256
	// postTimeout is how long one post may take.
	postTimeout = 10 * time.Second
	// longestMessage is the API's limit for an Event's message.
	longestMessage = 1024
)

// The rates at which Events are posted and reports are logged: a burst for
// what a start finds, then a trickle, whatever users do to their objects.
const (
	postsPerSecond, postBurst = 2, 50
	linesPerSecond, lineBurst = 2, 100
)

// report identifies what was reported.
type report struct{ object, reason, message string }

// Recorder is the cluster.Reporter that logs a report and posts it as an Event.
type Recorder struct {
	node  string
	post  func(context.Context, *corev1.Event) error
	log   *slog.Logger
	queue chan *corev1.Event
	posts *rate.Limiter

	mu         sync.Mutex
	seen       map[report]time.Time
	lines      *rate.Limiter
	suppressed int
}

func newRecorder(node string, post func(context.Context, *corev1.Event) error, log *slog.Logger) *Recorder {
	return &Recorder{
		node:  node,
		post:  post,
		log:   log,
		queue: make(chan *corev1.Event, queueLength),
		posts: rate.NewLimiter(postsPerSecond, postBurst),
		seen:  map[report]time.Time{},
		lines: rate.NewLimiter(linesPerSecond, lineBurst),
	}
}

// Warn implements cluster.Reporter.
func (r *Recorder) Warn(kind string, object *cluster.Meta, reason, message string) {
	message = truncate(message, longestMessage)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	id := report{subject(kind, object), reason, message}
	if !r.isNew(id, now) {
		return
	}
	if !r.lines.AllowN(now, 1) {
		r.suppressed++
		return
	}
	r.seen[id] = now
	attrs := []any{"kind", kind, "object", object.Key.String(), "reason", reason}
	if r.suppressed > 0 {
		attrs = append(attrs, "reports_suppressed_before", r.suppressed)
		r.suppressed = 0
	}
	r.log.Warn(message, attrs...)
	select {
	case r.queue <- newEvent(r.node, kind, object, reason, message, now):
	default: // the log line has to do
	}
}

// Mended says that what was reported of an object for a reason is over: when it
// comes back it is reported again, however soon.
func (r *Recorder) Mended(kind string, object *cluster.Meta, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	about := subject(kind, object)
	maps.DeleteFunc(r.seen, func(id report, _ time.Time) bool { return id.object == about && id.reason == reason })
}

func subject(kind string, object *cluster.Meta) string {
	return kind + " " + object.UID + " " + object.Key.String()
}

// isNew says whether a report was not made lately. The caller holds the lock.
func (r *Recorder) isNew(id report, now time.Time) bool {
	if at, ok := r.seen[id]; ok && now.Sub(at) < quietPeriod {
		return false
	}
	if len(r.seen) < mostRemembered {
		return true
	}
	for old, at := range r.seen {
		if now.Sub(at) >= quietPeriod {
			delete(r.seen, old)
		}
	}
	if len(r.seen) >= mostRemembered {
		clear(r.seen)
	}
	return true
}

// run posts Events until ctx ends. Failures of the same kind in a row are one
// line.
func (r *Recorder) run(ctx context.Context) {
	failure := ""
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-r.queue:
			if r.posts.Wait(ctx) != nil {
				return
			}
			before := failure
			var err error
			if failure, err = r.postOne(ctx, event); failure != "" && failure != before {
				r.log.Warn("cannot post Events, so only this log has them", "object", event.InvolvedObject.Name, "err", err)
			}
		}
	}
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
