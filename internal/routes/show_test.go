package routes

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/route"
)

// listed is what List returns, as text.
func (r *run) listed() string {
	var b strings.Builder
	for _, l := range r.List() {
		fmt.Fprintf(&b, "%s", l.Prefix)
		if l.Route != nil {
			fmt.Fprintf(&b, " [%s]", l.Route)
		}
		if l.Reason != "" {
			fmt.Fprintf(&b, " because %s", l.Reason)
		}
		if l.Pending != nil {
			fmt.Fprintf(&b, " pending: %v", l.Pending.Err)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// What peers sent is listed with what became of it.
func TestList(t *testing.T) {
	h := newHost(t)
	busy := errors.New("busy")
	h.routes.FailWith(func(k route.Key) error {
		if k.Dst == prefix("10.244.3.0/24") {
			return busy
		}
		return nil
	})
	r := h.start(nil, nodes(1, 2, 3))
	r.answers(2, 3)
	h.speaker().Deliver(addr("192.168.66.12"), prefix("10.9.0.0/16"), addr("172.16.0.1"))
	r.until("one failed", func() bool {
		return strings.Contains(r.listed(), ": busy\n") && strings.Contains(r.listed(), "because")
	})
	for _, want := range []string{
		"10.9.0.0/16 because ",
		"10.244.2.0/24 [10.244.2.0/24 via 192.168.66.12",
		"10.244.3.0/24 [10.244.3.0/24 via 192.168.66.13",
		"pending: ip route replace 10.244.3.0/24 via 192.168.66.13 dev eth0 proto 17: busy\n",
	} {
		if !strings.Contains(r.listed(), want) {
			t.Errorf("there is no %q in\n%s", want, r.listed())
		}
	}
	if c := r.Counts()[0]; c.Desired != 2 || c.Programmed != 1 {
		t.Errorf("counts: %+v", c)
	}
	h.routes.FailWith(nil)
	r.until("all is there", func() bool { c := r.Counts()[0]; return c.Desired == 2 && c.Programmed == 2 })
	if name := r.NodeNames()[addr("192.168.66.12")]; name != "n2" {
		t.Errorf("192.168.66.12 is %q", name)
	}
	if hops := r.Learned(); len(hops) != 3 {
		t.Errorf("learned %v", hops)
	}
}

// How long a learned route took to reach the kernel is told.
func TestLanded(t *testing.T) {
	landed := make(chan time.Duration, 100)
	r := newHost(t).start(func(c *Config) { c.Landed = func(took time.Duration) { landed <- took } }, nodes(1, 2))
	r.answers(2)
	r.routesAre("10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17")
	select {
	case took := <-landed:
		if took < 0 || took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing was told")
	}
}
