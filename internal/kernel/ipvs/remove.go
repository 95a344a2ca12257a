package ipvs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/record"
)

// Loaded says whether this kernel has IPVS, without loading it.
func Loaded() bool {
	_, err := os.Stat(tableFile)
	return err == nil
}

// Remove deletes the virtual servers that owns claims, with their real servers,
// and returns them.
func Remove(driver Interface, owns func(ID) bool) (removed []ID, err error) {
	return Removal{Owns: owns}.Run(driver)
}

// Removal is which virtual servers are to go. With Dry nothing changes.
type Removal struct {
	Owns func(ID) bool
	Dry  bool
}

// Run is Remove; with Dry it returns what would go.
func (m Removal) Run(driver Interface) (removed []ID, err error) {
	found, err := driver.List()
	if err != nil {
		return nil, fmt.Errorf("cannot read the virtual servers: %w", err)
	}
	var changes []Change
	for _, id := range slices.SortedFunc(maps.Keys(found), compareIDs) {
		switch {
		case !m.Owns(id):
		case m.Dry:
			removed = append(removed, id)
		default:
			changes = append(changes, Change{Op: DeleteServer, ID: id})
		}
	}
	var failed []error
	for i, err := range driver.Apply(changes) {
		if err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, changes[i].ID)
	}
	return removed, errors.Join(failed...)
}

// timeoutEntry begins the names of a record's entries that are timeouts.
const timeoutEntry = "ipvs timeout "

// Recording is an Interface that records what the timeouts were before they
// are changed for the first time, for RestoreTimeouts.
type Recording struct {
	Interface
	Record *record.File
}

// Close closes what is recorded, where that can be closed.
func (r Recording) Close() error {
	if closer, ok := r.Interface.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// SetTimeouts implements Interface.
func (r Recording) SetTimeouts(t Timeouts) error {
	if have, err := r.Timeouts(); err == nil {
		changes := map[string]record.Entry{}
		before := have.named()
		rounded := t.rounded()
		for name, d := range rounded.named() {
			if *d != 0 && *d != *before[name] {
				changes[timeoutEntry+name] = record.Entry{Before: before[name].String(), Set: d.String()}
			}
		}
		r.Record.Note(changes)
	}
	return r.Interface.SetTimeouts(t)
}

// named are the timeouts by their names in the record.
func (t *Timeouts) named() map[string]*time.Duration {
	return map[string]*time.Duration{"tcp": &t.TCP, "tcpfin": &t.TCPFin, "udp": &t.UDP}
}

// RestoreTimeouts puts the timeouts back that a record tells about, if they
// still are as they were set. It says which, as "tcp = 15m0s".
func RestoreTimeouts(driver Interface, r *record.File) (done []string, err error) {
	entries, err := r.Entries(timeoutEntry)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	now, err := driver.Timeouts()
	if err != nil {
		return nil, err
	}
	var back Timeouts
	have, want := now.named(), back.named()
	for _, entry := range slices.Sorted(maps.Keys(entries)) {
		name := entry[len(timeoutEntry):]
		before, err := time.ParseDuration(entries[entry].Before)
		if have[name] == nil || err != nil || have[name].String() != entries[entry].Set {
			continue
		}
		*want[name] = before
		done = append(done, fmt.Sprintf("%s = %s", name, before))
	}
	if len(done) > 0 {
		if err := driver.SetTimeouts(back); err != nil {
			return nil, err
		}
	}
	return done, r.Forget(slices.Collect(maps.Keys(entries))...)
}
