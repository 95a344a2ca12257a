package node

import (
	"testing"
	"time"

	"github.com/kube-router/kube-router/lab/internal/bench"
	"github.com/kube-router/kube-router/lab/internal/bench/load"
)

func TestCPUTimeIsOfTheProcessAndItsChildren(t *testing.T) {
	const stat = "1234 (kube) proxy) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 9 0 55 1000 200"
	if got, err := parseCPU(stat); err != nil || got != 1270*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 (x) S 1 2 3 4 5 6 7 8 9 10 a b c d e"} {
		if _, err := parseCPU(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestMemoryIsInMillionsOfBytes(t *testing.T) {
	const status = "Name:\tkube-router\nVmHWM:\t   40000 kB\nVmRSS:\t   30000 kB\nRssAnon:\t   20000 kB\nRssFile:\t    9000 kB\nRssShmem:\t 1000 kB\nThreads:\t9\n"
	want := bench.Memory{Total: 30.72, Anonymous: 20.48, File: 10.24, Peak: 40.96}
	if got := parseMemory([]byte(status)); *got != want {
		t.Errorf("%+v, want %+v", *got, want)
	}
}

func TestOnlyRulesAreCounted(t *testing.T) {
	const save = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-A - [0:0]\n-A PREROUTING -j KUBE-A\n-A KUBE-A -j RETURN\nCOMMIT\n"
	if got := parseRules(save); got != 2 {
		t.Errorf("%d rules", got)
	}
}

// Each change must differ from what was there before it.
func TestChangesAreChanges(t *testing.T) {
	for _, services := range []int{1, 7, 600, 999, 1000, 5000} {
		m := &run{Options: Options{Services: services}}
		now := map[int]int{}
		for i := range changed {
			s := m.change(i)
			if now[s.Number] == s.Variant || s.Number >= services {
				t.Fatalf("with %d Services, change %d does nothing: %+v", services, i, s)
			}
			now[s.Number] = s.Variant
		}
	}
}

func TestTheLastChangesAreOfDifferentServices(t *testing.T) {
	m := &run{Options: Options{Services: 100}}
	seen := map[load.Service]bool{}
	for i := changed - workers; i < changed; i++ {
		if s := m.change(i); seen[s] {
			t.Errorf("%+v twice", s)
		} else {
			seen[s] = true
		}
	}
}

func TestWaitingIsFineAtFirstAndCheapLater(t *testing.T) {
	for waited, want := range map[time.Duration]time.Duration{
		0:                      finest,
		20 * time.Millisecond:  finest,
		200 * time.Millisecond: 10 * time.Millisecond,
		time.Minute:            coarsest,
	} {
		if got := pause(waited); got != want {
			t.Errorf("after %s: %s, want %s", waited, got, want)
		}
	}
}
