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

// Entry is an entry of the table: where a client sent from and to, and where
// the reply comes from and goes to.
type Entry struct {
	Protocol           inet.Protocol
	From, To           netip.AddrPort
	ReplyFrom, ReplyTo netip.AddrPort
}

// String is the entry as conntrack -L writes it, without its times and marks.
func (e Entry) String() string {
	direction := func(src, dst netip.AddrPort) string {
		return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d", src.Addr(), dst.Addr(), src.Port(), dst.Port())
	}
	return fmt.Sprintf("%s %s %s", e.Protocol, direction(e.From, e.To), direction(e.ReplyFrom, e.ReplyTo))
}

// Fake is an Interface in memory. It is safe for concurrent use.
type Fake struct {
	mu      sync.Mutex
	entries map[Entry]struct{}
	reads   int
	fail    error
}

// NewFake returns a Fake without entries.
func NewFake() *Fake { return &Fake{entries: map[Entry]struct{}{}} }

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
	f.entries[e] = struct{}{}
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

// FailWith makes Delete fail before it has deleted anything. nil ends that.
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

// String is the table in the form of conntrack -L, sorted.
func (f *Fake) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for e := range f.entries {
		lines = append(lines, e.String()+"\n")
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
