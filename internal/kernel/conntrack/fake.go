package conntrack

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/kube-router/kube-router/internal/inet"
)

// Fake is an Interface in memory. It is safe for concurrent use.
type Fake struct {
	mu      sync.Mutex
	entries map[Entry]uint32 // with their marks
	reads   int
	fail    error
}

// NewFake returns a Fake without entries.
func NewFake() *Fake { return &Fake{entries: map[Entry]uint32{}} }

// Add adds an entry, as a packet would. Like the kernel it returns EEXIST where
// one of the entry's directions is another entry's.
func (f *Fake) Add(e Entry) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other := range f.entries {
		if e.Protocol == other.Protocol && e.overlaps(other) {
			return syscall.EEXIST
		}
	}
	f.entries[e] = 0
	return nil
}

func (e Entry) overlaps(other Entry) bool {
	type direction struct{ src, dst netip.AddrPort }
	there, back := direction{other.From, other.To}, direction{other.ReplyFrom, other.ReplyTo}
	for _, d := range [...]direction{{e.From, e.To}, {e.ReplyFrom, e.ReplyTo}} {
		if d == there || d == back {
			return true
		}
	}
	return false
}

// FailWith makes Delete and Mark fail before they have done anything. nil ends that.
func (f *Fake) FailWith(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

// Reads is how often the table was read.
func (f *Fake) Reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// String is the table in the form of conntrack -L, sorted, with marks that are
// not 0.
func (f *Fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for e, mark := range f.entries {
		line := e.String()
		if mark != 0 {
			line += fmt.Sprintf(" mark=%d", mark)
		}
		lines = append(lines, line+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// Delete implements Interface.
func (f *Fake) Delete(list []Flow) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted, err := newFlows(list)
	if f.fail != nil {
		return 0, f.fail
	}
	f.reads += len(wanted.dumps())
	deleted := 0
	for e := range f.entries {
		if wanted.match(tuple{e.Protocol, e.From, e.To}, tuple{e.Protocol, e.ReplyFrom, e.ReplyTo}) {
			delete(f.entries, e)
			deleted++
		}
	}
	return deleted, err
}

// Mark implements Interface.
func (f *Fake) Mark(family inet.Family, bits uint32, want func(Entry) bool) (Marks, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return Marks{}, f.fail
	}
	f.reads++
	var m Marks
	for e, mark := range f.entries {
		if inet.FamilyOf(e.From.Addr()) != family {
			continue
		}
		change := m.compare(mark, bits, want(e))
		switch change {
		case add:
			f.entries[e] = mark | bits
		case remove:
			f.entries[e] = mark &^ bits
		}
		m.did(change, mark, bits)
	}
	return m, nil
}
