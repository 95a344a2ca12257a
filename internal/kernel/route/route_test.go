package route

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var _ Interface = (*Fake)(nil)

func TestFake(t *testing.T) {
	suite(t, func(t *testing.T) system {
		f := NewFake()
		return system{
			Interface: f,
			text:      f.Text,
			addLink: func(name string, addrs ...string) {
				var prefixes []netip.Prefix
				for _, a := range addrs {
					prefixes = append(prefixes, netip.MustParsePrefix(a))
				}
				f.AddLink(name, prefixes...)
			},
			delLink: f.DelLink,
			foreign: func(key Key, via string) { f.AddForeign(key, dstText(key.Dst)+" via "+via+" proto static") },
			spawn:   func(fn func()) { go fn() },
		}
	})
}

func TestFakeCeding(t *testing.T) {
	f := NewFake()
	f.Ceding = []string{"former0"}
	testCeding(t, system{
		Interface: f, text: f.Text, delLink: f.DelLink,
		addDummy: func(name, addr string) { f.AddLink(name, netip.MustParsePrefix(addr)) },
	})
}

func TestFakeWithoutLinksTakesEveryNextHop(t *testing.T) {
	f := NewFake()
	if err := f.Replace(via("10.244.2.0/24", "192.168.66.12")); err != nil {
		t.Error(err)
	}
	if got, want := f.Text(Main), "10.244.2.0/24 via 192.168.66.12 proto 17\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRoutesRefuseAnotherTable(t *testing.T) {
	f := NewFake()
	routes := NewRoutes(f, Main)
	other := via("10.244.2.0/24", "192.168.66.12")
	other.Table = 77
	if errs := routes.Set(map[Key]*Route{other.Key: &other}); errs[other.Key] == nil || f.Changes() != 0 {
		t.Errorf("a route of table 77 was set in the main table: %v", errs)
	}
}

func TestResyncBeforeTheFirstSweepDeletesNothing(t *testing.T) {
	f := NewFake()
	f.Replace(via("10.244.2.0/24", "192.168.66.12"))
	if _, err := NewRoutes(f, Main).Resync(); err != nil {
		t.Fatal(err)
	}
	if f.Text(Main) == "" {
		t.Error("a route of a former run was swept before the peers had their chance")
	}
}

func TestSeveralChangesAreOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changed := make(chan struct{}, 1)
		var calls []time.Duration
		begin := time.Now()
		go coalesce(ctx, changed, 100*time.Millisecond, func() { calls = append(calls, time.Since(begin)) })
		for range 20 {
			note(changed)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		note(changed)
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		// 200 ms of changes: at most a call every 100 ms, none before.
		if len(calls) != 3 || calls[0] != 100*time.Millisecond || calls[2] != 1300*time.Millisecond {
			t.Errorf("calls after %v, want 3: at 100 ms, 200 ms and 1.3 s", calls)
		}
	})
}

// Whatever the order, and with a failure at any step that is tried again, the
// end is the same.
func TestOrderDoesNotMatter(t *testing.T) {
	want := table()
	all := map[Key]Route{}
	for key, r := range want {
		all[key] = *r
	}
	keys := slices.SortedFunc(maps.Keys(want), compareKeys)
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		f := NewFake()
		routes := NewRoutes(f, Main)
		f.FailWith(func(Key) error {
			if random.IntN(3) == 0 {
				return syscall.ENOBUFS
			}
			return nil
		})
		var failed []Key
		for _, key := range keys {
			if errs := routes.Set(map[Key]*Route{key: want[key]}); len(errs) > 0 {
				failed = append(failed, key)
			}
		}
		f.FailWith(nil)
		for _, key := range failed {
			mustSet(t, routes, map[Key]*Route{key: want[key]})
		}
		if got, want := f.Text(Main), Text(all); got != want {
			t.Fatalf("seed %d:\n%s\nwant:\n%s", seed, got, want)
		}
	}
}
