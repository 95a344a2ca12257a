//go:build guest

package services

import (
	"net/netip"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
)

// A Pod that calls itself through its Service, where that is off, shows in the
// tracked connections: so the agent can tell what is missing.
func TestSelfCallShows(t *testing.T) {
	n := newNetwork(t)
	n.servePods()
	n.start(Config{Guard: true}, webs(ready(bAddr, "n1")))
	wants(t, "from b to itself", n.hosts["b"].get("tcp", vipHTTP), "timeout")
	wants(t, "from a", n.hosts["a"].get("tcp", vipHTTP), "b sees "+aAddr)
	var calls []conntrack.Entry
	n.hosts["n1"].in(func() {
		k, err := conntrack.Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer k.Close()
		marks, err := k.Mark(inet.IPv4, 0, func(e conntrack.Entry) bool {
			if e.SelfCall() {
				calls = append(calls, e)
			}
			return false
		})
		if err != nil || marks.Added+marks.Removed > 0 {
			t.Errorf("%+v, %v: reading must change nothing", marks, err)
		}
	})
	if len(calls) == 0 || calls[0].From.Addr() != netip.MustParseAddr(bAddr) || calls[0].To != netip.MustParseAddrPort(vipHTTP) {
		t.Errorf("seen: %v\n%s", calls, n.hosts["n1"].run("conntrack", "-L"))
	}
	for _, e := range calls {
		if e.From.Addr() != netip.MustParseAddr(bAddr) {
			t.Errorf("%s is none", e)
		}
	}
}
