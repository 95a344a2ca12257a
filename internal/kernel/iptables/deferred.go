package iptables

import (
	"context"
	"errors"
	"sync/atomic"
)

// ErrNotOpen is returned by a Deferred that is not open.
var ErrNotOpen = errors.New("iptables is not open yet; this is tried again")

// Deferred is an Interface that is opened later than it is handed out: to find
// the variant takes a while that other preparations need not wait for.
type Deferred struct{ tables atomic.Pointer[Interface] }

// Open opens it.
func (d *Deferred) Open(tables Interface) { d.tables.Store(&tables) }

// Save implements Interface.
func (d *Deferred) Save(ctx context.Context, table Table) (string, error) {
	tables := d.tables.Load()
	if tables == nil {
		return "", ErrNotOpen
	}
	return (*tables).Save(ctx, table)
}

// Counters implements Interface.
func (d *Deferred) Counters(ctx context.Context, table Table, fn func(chain, rule string, packets uint64)) error {
	tables := d.tables.Load()
	if tables == nil {
		return ErrNotOpen
	}
	return (*tables).Counters(ctx, table, fn)
}

// Restore implements Interface.
func (d *Deferred) Restore(ctx context.Context, input string) error {
	tables := d.tables.Load()
	if tables == nil {
		return ErrNotOpen
	}
	return (*tables).Restore(ctx, input)
}
