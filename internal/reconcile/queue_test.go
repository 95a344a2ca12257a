package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errKernel = errors.New("device or resource busy")

// takeNow is what Take returns without waiting.
func takeNow[K comparable](t *testing.T, q *Queue[K]) []K {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	return q.Take(ctx)
}

func expectTaken(t *testing.T, q *Queue[string], want ...string) {
	t.Helper()
	if got := takeNow(t, q); !slices.Equal(got, want) {
		t.Fatalf("took %q, want %q", got, want)
	}
}

func TestMarkedKeysAreTakenOnceInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Mark("a", "b", "a")
		q.Mark("c")
		q.Mark("b")
		expectTaken(t, q, "a", "b", "c")
		expectTaken(t, q)
	})
}

func TestTakeWaitsForAMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		go func() {
			time.Sleep(time.Hour)
			q.Mark("late")
		}()
		if got := q.Take(t.Context()); !slices.Equal(got, []string{"late"}) {
			t.Errorf("took %q", got)
		}
	})
}

func TestTakeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if got := q.Take(ctx); got != nil {
			t.Errorf("took %q of nothing", got)
		}
		q.Mark("a")
		if got := q.Take(ctx); got != nil {
			t.Errorf("took %q after the end", got)
		}
		expectTaken(t, q, "a")
	})
}

func TestSettledKeysAreClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Mark("a")
		expectTaken(t, q, "a")
		q.Settle("a", nil)
		time.Sleep(time.Hour)
		expectTaken(t, q)
		if p := q.Pending(); len(p) != 0 {
			t.Errorf("pending: %v", p)
		}
	})
}

// A key that is marked while it is worked on is due again, because the work
// may have begun from the state before the mark. It is not handed out twice
// at the same time.
func TestMarkedWhileTaken(t *testing.T) {
	for _, outcome := range []error{nil, errKernel} {
		synctest.Test(t, func(t *testing.T) {
			q := NewQueue[string]()
			q.Mark("a")
			expectTaken(t, q, "a")
			q.Mark("a")
			expectTaken(t, q)
			q.Settle("a", outcome)
			expectTaken(t, q, "a")
			q.Settle("a", nil)
			expectTaken(t, q)
		})
	}
}

func TestFailedKeysAreDueAgainLaterAndLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Mark("a")
		var delays []string
		last := time.Now()
		for range 12 {
			q.Take(t.Context())
			delays = append(delays, time.Since(last).Truncate(time.Millisecond).String())
			last = time.Now()
			q.Settle("a", errKernel)
		}
		want := "[0s 100ms 200ms 400ms 800ms 1.6s 3.2s 6.4s 12.8s 25.6s 30s 30s]"
		if got := fmt.Sprint(delays); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestMarkCutsTheDelayShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Mark("a")
		for range 8 {
			q.Take(t.Context())
			q.Settle("a", errKernel)
		}
		expectTaken(t, q)
		q.Mark("a")
		expectTaken(t, q, "a")
		q.Settle("a", nil)
		// The timer of the last failure does not make it due once more.
		time.Sleep(time.Hour)
		expectTaken(t, q)
	})
}

func TestOneFailureDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Mark("bad", "good")
		expectTaken(t, q, "bad", "good")
		q.Settle("bad", errKernel)
		q.Settle("good", nil)
		q.Mark("good")
		expectTaken(t, q, "good")
	})
}

// A success starts the delays anew, also that of a key which is never clean
// because it is marked again and again.
func TestSuccessResetsTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Mark("busy")
		for range 20 {
			expectTaken(t, q, "busy")
			q.Mark("busy")
			q.Settle("busy", nil)
		}
		expectTaken(t, q, "busy")
		q.Settle("busy", errKernel)
		begin := time.Now()
		q.Take(t.Context())
		if waited := time.Since(begin); waited != firstRetry {
			t.Errorf("first retry after %v, want %v", waited, firstRetry)
		}
	})
}

func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		begin := time.Now()
		after := func(p Pending[string]) string {
			return fmt.Sprintf("%s since %v, %d attempts: %v", p.Key, p.Since.Sub(begin).Truncate(time.Second), p.Attempts, p.Err)
		}
		expect := func(want ...string) {
			t.Helper()
			var got []string
			for _, p := range q.Pending() {
				got = append(got, after(p))
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		}
		expect()
		q.Mark("a")
		expect("a since 0s, 0 attempts: <nil>")
		q.Take(t.Context())
		time.Sleep(time.Second)
		q.Mark("b")
		expect("a since 0s, 1 attempts: <nil>", "b since 1s, 0 attempts: <nil>")
		q.Take(t.Context())
		q.Settle("a", errKernel)
		q.Settle("b", nil)
		expect("a since 0s, 1 attempts: device or resource busy")
		q.Take(t.Context())
		time.Sleep(2 * time.Second)
		q.Mark("a")
		q.Settle("a", nil)
		expect("a since 3s, 0 attempts: <nil>")
	})
}

func TestSettleOfWhatWasNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Settle("never seen", errKernel)
		q.Mark("a")
		q.Settle("a", nil)
		expectTaken(t, q, "a")
	})
}

// TestNothingIsLost: whoever marks, takes and fails at the same time, the last
// mark of every key is followed by a successful attempt.
func TestNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys, markers, workers = 20, 4, 3
		q := NewQueue[int]()
		var mu sync.Mutex
		var wanted, done, busy [keys]int

		ctx, cancel := context.WithCancel(t.Context())
		work := func() {
			for taken := q.Take(ctx); taken != nil; taken = q.Take(ctx) {
				for _, key := range taken {
					mu.Lock()
					if busy[key]++; busy[key] > 1 {
						t.Errorf("key %d is worked on twice at a time", key)
					}
					seen := wanted[key]
					mu.Unlock()

					time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
					var err error
					if rand.IntN(3) == 0 {
						err = errKernel
					}

					mu.Lock()
					busy[key]--
					if err == nil {
						done[key] = seen
					}
					mu.Unlock()
					q.Settle(key, err)
				}
			}
		}
		mark := func() {
			for range 200 {
				key := rand.IntN(keys)
				mu.Lock()
				wanted[key]++
				mu.Unlock()
				q.Mark(key)
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
			}
		}
		var all sync.WaitGroup
		for range workers {
			all.Go(work)
		}
		for range markers {
			all.Go(mark)
		}
		time.Sleep(time.Hour)
		if p := q.Pending(); len(p) != 0 {
			t.Errorf("still pending: %v", p)
		}
		cancel()
		all.Wait()
		if wanted != done {
			t.Errorf("wanted %v\ndone   %v", wanted, done)
		}
	})
}

// Who hangs is found out without waiting for it.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		q := NewQueue[string]()
		expect := func(when string, busy, last time.Duration) {
			t.Helper()
			p := q.Progress()
			since := func(at time.Time) time.Duration {
				if at.IsZero() {
					return 0
				}
				return at.Sub(begin)
			}
			if since(p.Busy) != busy || since(p.Last) != last {
				t.Errorf("%s: busy since %v, last %v; want %v and %v", when, since(p.Busy), since(p.Last), busy, last)
			}
		}
		expect("before all", 0, 0)
		q.Mark("a") // long before anybody works
		expect("marked, and not taken", 0, 0)
		time.Sleep(time.Second)
		expectTaken(t, q, "a")
		time.Sleep(time.Minute)
		expect("worked on", time.Second, 0)
		q.Settle("a", nil)
		expect("settled, and not asked for more", time.Second, 0)
		expectTaken(t, q)
		ended := time.Second + time.Minute
		expect("waits", 0, ended)
		now := func() time.Duration { return time.Since(begin) }
		time.Sleep(time.Second)
		marked := now()
		q.Mark("b")
		expectTaken(t, q, "b")
		expect("begins with the mark", marked, ended)
		q.Mark("c")
		time.Sleep(time.Second)
		ended = now()
		q.Settle("b", errors.New("no"))
		expectTaken(t, q, "c")
		expect("begins with the end of the round before", ended, ended)
		q.Settle("c", nil)
		expectTaken(t, q)
		time.Sleep(firstRetry)
		due := now()
		expectTaken(t, q, "b")
		expect("begins when a retry is due", due, ended)
	})
}

// Keys that become clean tell since when they were dirty, failures included.
func TestLanded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		var landed []string
		q.Landed = func(key string, since time.Time) {
			landed = append(landed, fmt.Sprintf("%s after %v", key, time.Since(since).Round(time.Second)))
		}
		q.Mark("a", "b")
		expectTaken(t, q, "a", "b")
		time.Sleep(time.Second)
		q.Settle("a", nil)
		q.Settle("b", errKernel)
		time.Sleep(9 * time.Second)
		expectTaken(t, q, "b")
		q.Settle("b", nil)
		if want := []string{"a after 1s", "b after 10s"}; !slices.Equal(landed, want) {
			t.Errorf("got %q, want %q", landed, want)
		}
	})
}

func TestCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string]()
		q.Mark("a1", "a2", "b1")
		expectTaken(t, q, "a1", "a2", "b1")
		q.Settle("a1", nil)
		q.Settle("a2", errKernel)
		if n := q.Count(func(key string) bool { return key[0] == 'a' }); n != 1 {
			t.Errorf("%d keys with an a, want 1", n)
		}
	})
}
