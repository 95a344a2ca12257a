package load

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
)

func TestEveryServiceHasAnAddressOfItsOwn(t *testing.T) {
	seen := map[netip.AddrPort]string{}
	last := ""
	for i := range 20000 {
		s := Service{Number: i}
		vip := s.VIP()
		if !ServiceRange.Contains(vip.Addr()) || seen[vip] != "" {
			t.Fatalf("%s has %s, which %s has already, or which is outside %s", s.Name(), vip, seen[vip], ServiceRange)
		}
		if s.Name() <= last {
			t.Fatalf("%s does not come after %s", s.Name(), last)
		}
		seen[vip], last = s.Name(), s.Name()
	}
}

func TestVariantsOfEndpointsHaveNoneInCommon(t *testing.T) {
	for i := range 300 {
		used := map[netip.Addr]bool{}
		for variant := range 2 {
			for _, a := range (Service{Number: i, Variant: variant}).Endpoints() {
				if used[a] || !Answering.Contains(a) || a == Answering.Addr() || a.As4()[3] == 255 {
					t.Fatalf("Service %d, variant %d: %s", i, variant, a)
				}
				used[a] = true
			}
		}
	}
}

func TestEachDoesEveryNumberOnce(t *testing.T) {
	var mu sync.Mutex
	done := map[int]int{}
	err := Each(context.Background(), 7, 3, 50, func(_ context.Context, i int) error {
		mu.Lock()
		defer mu.Unlock()
		done[i]++
		return nil
	})
	if err != nil || len(done) != 47 || done[3] != 1 || done[49] != 1 {
		t.Errorf("%v, done %v", err, done)
	}
}

func TestEachStopsAtAnError(t *testing.T) {
	broken := errors.New("broken")
	calls := 0
	err := Each(context.Background(), 1, 0, 50, func(_ context.Context, i int) error {
		calls++
		if i == 4 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || calls != 5 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// What goes elsewhere meets no connection of the Service.
func TestElsewhereIsNoEndpoint(t *testing.T) {
	for number := range 300 {
		for variant := range 2 {
			s := Service{Number: number, Variant: variant}
			endpoints, there := s.Endpoints(), s.Elsewhere()
			if there == endpoints[0] || there == endpoints[1] || endpoints[0] == endpoints[1] || !Answering.Contains(there) {
				t.Errorf("%d, variant %d: %s and %v", number, variant, there, endpoints)
			}
		}
	}
}
