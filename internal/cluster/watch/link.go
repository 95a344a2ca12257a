package watch

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The delays between attempts to reach the API server.
const (
	firstDelay   = 200 * time.Millisecond
	longestDelay = 10 * time.Second
)

// delays are the growing delays between attempts. Jitter keeps the agents of a
// cluster from coming back all at once.
type delays struct{ next time.Duration }

func (d *delays) reset() { d.next = 0 }

// wait waits for the next delay. It is false when ctx ended.
func (d *delays) wait(ctx context.Context) bool {
	d.next = min(max(2*d.next, firstDelay), longestDelay)
	timer := time.NewTimer(d.next/2 + rand.N(d.next))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// link is the state of the connection to the API server. It turns the failures
// and successes of all requests into one line when the connection is lost, one
// when it is back, and one for each resource that the server refuses.
type link struct {
	log    *slog.Logger
	server string

	mu      sync.Mutex
	lost    time.Time // zero while the server answers
	reason  error
	refused map[string]string
}

func newLink(server string, log *slog.Logger) *link {
	return &link{server: server, log: log, refused: map[string]string{}}
}

// failed notes an attempt without an answer.
func (l *link) failed(err error) {
	// The URL of a watch is long and says nothing that the server does not.
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost.IsZero() {
		l.lost = time.Now()
		l.log.Warn("API server does not answer, trying until it does; what is programmed stays", "server", l.server, "err", err)
	}
	l.reason = err
}

// answered notes an answer, whatever it says.
func (l *link) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lost.IsZero() {
		l.log.Info("API server answers again", "server", l.server, "after", time.Since(l.lost).Round(time.Millisecond).String())
		l.lost, l.reason = time.Time{}, nil
	}
}

// refuse notes that the server answered that a resource cannot be had.
func (l *link) refuse(resource string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused[resource] == err.Error() {
		return
	}
	l.refused[resource] = err.Error()
	advice := "trying until it can"
	switch {
	case apierrors.IsForbidden(err):
		advice = "let the ClusterRole of this agent list and watch it"
	case apierrors.IsUnauthorized(err):
		advice = "check the credentials of this agent"
	}
	l.log.Warn("cannot watch "+resource+": "+advice, "err", err)
}

// granted notes that a resource can be had.
func (l *link) granted(resource string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.refused[resource]; ok {
		delete(l.refused, resource)
		l.log.Info("can watch " + resource + " now")
	}
}

// Outage is since when the API server has not answered, and why; the zero Time
// while it does.
func (c *Client) Outage() (since time.Time, reason string) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.link.lost.IsZero() {
		return time.Time{}, ""
	}
	return c.link.lost, c.link.reason.Error()
}

// why says why a list may be missing.
func (l *link) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason != nil {
		return l.reason.Error()
	}
	for _, reason := range l.refused {
		return reason
	}
	return "it has not answered yet"
}

// untilAnswered repeats a request until the server answers it, or ctx ends.
func untilAnswered[T any](ctx context.Context, l *link, request func() (T, error)) (T, error) {
	var d delays
	for {
		result, err := request()
		if ctx.Err() != nil {
			return result, ctx.Err()
		}
		if isAnswer(err) {
			l.answered()
			return result, err
		}
		l.failed(err)
		if !d.wait(ctx) {
			return result, ctx.Err()
		}
	}
}

// isAnswer says whether a request's outcome is one that repeating it cannot
// better: the server is there and willing to work.
func isAnswer(err error) bool {
	if err == nil {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch status.Status().Code {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable:
		return false
	}
	return true
}
