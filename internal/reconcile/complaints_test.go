package reconcile

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAFailureIsToldOnce(t *testing.T) {
	type told struct{ began, ended bool }
	c := Complaints{}
	locked, gone := errors.New("locked"), errors.New("gone")
	for i, step := range []struct {
		what string
		err  error
		want told
	}{
		{"rules", nil, told{}},
		{"rules", locked, told{began: true}},
		{"rules", locked, told{}},
		{"sets", locked, told{began: true}},
		{"rules", gone, told{began: true}},
		{"rules", nil, told{ended: true}},
		{"rules", nil, told{}},
		{"rules", gone, told{began: true}},
	} {
		began, ended := c.Change(step.what, step.err)
		if got := (told{began, ended}); got != step.want {
			t.Errorf("step %d, %s %v: told %+v, want %+v", i, step.what, step.err, got, step.want)
		}
	}
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
		defer cancel()
		calls := 0
		Every(ctx, 10*time.Second, func() { calls++ })
		if calls != 3 {
			t.Errorf("%d calls in 35 s", calls)
		}
		Every(ctx, 0, func() { t.Error("a period of 0 is never") })
	})
}
