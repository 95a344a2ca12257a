package reconcile

import (
	"context"
	"time"
)

// Complaints keeps what attempts failed with, so that a failure that is tried
// again and again is told once. It belongs to one goroutine.
type Complaints map[string]string

// Change takes note of how an attempt ended. began says that it failed, and
// not in the same way as before; ended, that it succeeded after failures.
func (c Complaints) Change(what string, err error) (began, ended bool) {
	said, failed := c[what]
	if err == nil {
		delete(c, what)
		return false, failed
	}
	c[what] = err.Error()
	return !failed || said != err.Error(), false
}

// Every calls fn each period until ctx ends. A period of 0 is never.
func Every(ctx context.Context, period time.Duration, fn func()) {
	if period <= 0 {
		return
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			fn()
		}
	}
}
