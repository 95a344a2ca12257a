package lbipam

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
)

// A leader whose API server has not answered for an hour does not look as if it
// hung, and says what it waits with.
func TestOutageIsNoHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{}, cluster.NewFeeds(), nil, nil, slog.New(slog.DiscardHandler))
		if c.Work() != nil || c.Counts() != nil || !c.Progress().Last.IsZero() {
			t.Error("an agent that does not lead tells of work")
		}
		term := newTerm(c)
		c.setTerm(term)
		term.queue.Mark(cluster.Key{Namespace: "default", Name: "web"})
		term.queue.Take(t.Context())
		time.Sleep(time.Hour)
		if p := c.Progress(); !p.Busy.IsZero() {
			t.Errorf("busy since %v", p.Busy)
		}
		// There is one kind of work, not one for each Service.
		if work := c.Work(); len(work) != 1 || work[0].What != "service default/web" || work[0].Kind() != "service" {
			t.Errorf("work: %+v", work)
		}
		if counts := c.Counts(); len(counts) != 1 || counts[0].Kind != "services" {
			t.Errorf("counts: %+v", counts)
		}
	})
}
