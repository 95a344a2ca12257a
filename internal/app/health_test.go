package app

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// stub is a controller that is as a test says.
type stub struct {
	done     chan struct{}
	progress reconcile.Progress
	work     []reconcile.Work
	counts   []reconcile.Count
}

func (s *stub) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *stub) Ready() <-chan struct{}        { return s.done }
func (s *stub) Progress() reconcile.Progress  { return s.progress }
func (s *stub) Work() []reconcile.Work        { return s.work }
func (s *stub) Counts() []reconcile.Count     { return s.counts }
func (s *stub) finish() *stub                 { s.done = make(chan struct{}); close(s.done); return s }
func answer(ok bool, words string) string     { return fmt.Sprintf("%v %s", ok, words) }
func failing(what, why string) reconcile.Work {
	return reconcile.Work{What: what, Err: errors.New(why)}
}

// What the two probes say of a controller, in words.
func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		time.Sleep(time.Hour)
		at := func(ago time.Duration) reconcile.Progress {
			return reconcile.Progress{Busy: time.Now().Add(-ago), Last: start}
		}
		waits := fmt.Errorf("%w: peers", reconcile.ErrWaiting)
		for _, c := range []struct {
			name         string
			stub         *stub
			alive, ready string
		}{
			{"starts", &stub{}, "true programming the kernel", "false programming the kernel"},
			{"waits for something", &stub{work: []reconcile.Work{failing("node", "no pod CIDR yet")}},
				"true node: no pod CIDR yet", "false node: no pod CIDR yet"},
			{"first fill", &stub{progress: at(4 * time.Second)}, "true works since 4s", "false programming the kernel"},
			{"at rest", (&stub{}).finish(), "true waits for changes", "true ready"},
			{"works", (&stub{progress: at(179 * time.Second)}).finish(), "true works since 2m59s", "true ready"},
			{"fails", (&stub{work: []reconcile.Work{{What: "sweep", Err: waits}, failing("iptables", "locked"), failing("ipsets", "full")}}).finish(),
				"true waits for changes", "true ready, but 2 not done, tried again: iptables: locked"},
			{"hangs", (&stub{progress: at(181 * time.Second)}).finish(),
				"false hangs: has worked for 3m1s on what takes seconds; started anew, it goes on from what the kernel has", "true ready"},
		} {
			a := testAgent(t)
			p := part{"policy", c.stub}
			if got := answer(a.alive(p)); got != c.alive {
				t.Errorf("%s: /healthz: got %q, want %q", c.name, got, c.alive)
			}
			if got := answer(a.ready(p)); got != c.ready {
				t.Errorf("%s: /readyz: got %q, want %q", c.name, got, c.ready)
			}
		}
	})
}

// An outage of the API server is no reason to start the agent anew, however
// long it takes.
func TestOutageOfTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t)
		a.feeds.Nodes.Subscribe(func(cluster.Change[cluster.Node]) {})
		p := part{"routes", &stub{}}
		time.Sleep(24 * time.Hour)
		const why = "waiting for the API server's list of nodes"
		if alive, ready := answer(a.alive(p)), answer(a.ready(p)); alive != "true "+why || ready != "false "+why {
			t.Errorf("/healthz: %q, /readyz: %q", alive, ready)
		}
	})
}

// A real queue whose worker is stuck is found out, and its keeper with it.
func TestWorkerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := reconcile.NewQueue[string]()
		hang, done := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(done)
			for q.Take(ctx) != nil {
				<-hang
			}
		}()
		q.Mark("iptables")
		synctest.Wait()
		a, s := testAgent(t), (&stub{}).finish()
		alive := func() bool {
			s.progress = q.Progress()
			ok, _ := a.alive(part{"policy", s})
			return ok
		}
		if !alive() {
			t.Error("not alive at once")
		}
		time.Sleep(hangs)
		if alive() {
			t.Error("alive after all that time")
		}
		close(hang)
		synctest.Wait()
		if !alive() {
			t.Error("not alive after it went on")
		}
		cancel()
		<-done
	})
}
