package bgp

import (
	"net/netip"
	"testing"
	"time"
)

// However many routes go when a session comes up, none is forgotten: a peer that
// missed one would keep it. What is old goes, and what was told again while the
// session was up is not told once more.
func TestNoWithdrawalIsForgotten(t *testing.T) {
	nth := func(n int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
	}
	var m missed
	began := time.Now()
	const many = 50000
	for n := range many {
		m.changed(nth(n), true, began)
	}
	up := began.Add(missTime / 2)
	if got := len(m.around(up)); got != many {
		t.Errorf("%d of %d withdrawals are known", got, many)
	}
	m.changed(nth(7), false, began)
	if got := len(m.around(up)); got != many-1 {
		t.Errorf("%d withdrawals, and one route is back", got)
	}
	if got := len(m.around(began.Add(2 * missTime))); got != 0 {
		t.Errorf("a session that came up later is told of %d", got)
	}

	m.toldAgain(nth(1), up.Add(missTime))
	for _, c := range []struct {
		since time.Time
		want  int
	}{{up, many - 2}, {up.Add(-time.Millisecond), many - 2}, {up.Add(time.Millisecond), many - 1}} {
		if got := len(m.around(c.since)); got != c.want {
			t.Errorf("up %v later: told of %d, want %d", c.since.Sub(up), got, c.want)
		}
	}

	later := began.Add(4 * missTime)
	for n := range 2 * many {
		m.changed(nth(many+n), true, later)
	}
	if _, ok := m.withdrawn[nth(0)]; ok || len(m.withdrawn) != 2*many {
		t.Errorf("%d are kept, old ones among them", len(m.withdrawn))
	}
	far := later.Add(4 * missTime)
	for n := range 2 * many {
		m.changed(nth(n), true, far)
	}
	if len(m.withdrawn) > 2*many {
		t.Errorf("%d are kept", len(m.withdrawn))
	}
}
