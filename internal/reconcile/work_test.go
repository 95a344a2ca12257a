package reconcile

import (
	"errors"
	"fmt"
	"testing"
)

func TestWork(t *testing.T) {
	for _, c := range []struct {
		work       Work
		text, kind string
		failed     bool
	}{
		{Work{What: "iptables"}, "iptables", "iptables", false},
		{Work{What: "service default/web", Err: errors.New("busy")}, "service default/web: busy", "service", true},
		{Work{What: "ipsets", Err: errors.Join(errors.New("full"), errors.New("busy"))}, "ipsets: full; busy", "ipsets", true},
		{Work{What: "sweep", Err: fmt.Errorf("%w: peers", ErrWaiting)}, "sweep: not due yet: peers", "sweep", false},
	} {
		if got := c.work.String(); got != c.text || c.work.Kind() != c.kind || c.work.Failed() != c.failed {
			t.Errorf("got %q of kind %q, failed %v; want %q of kind %q, %v", got, c.work.Kind(), c.work.Failed(), c.text, c.kind, c.failed)
		}
	}
}
