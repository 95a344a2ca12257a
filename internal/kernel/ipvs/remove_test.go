package ipvs

import (
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

func testRemove(t *testing.T, s system) {
	ours, theirs, mark := tcp("10.96.0.1:443"), tcp("192.0.2.1:443"), MarkID(1<<18, inet.IPv6)
	for _, id := range []ID{ours, theirs, mark, MarkID(17, inet.IPv4)} {
		s.apply(t, addServer(id, rr))
	}
	s.apply(t, real(AddReal, ours, "10.0.0.5:6443", 1), real(AddReal, theirs, "10.0.0.6:6443", 1))
	owns := func(id ID) bool { return id == mark || ownsClusterIPs(id) }
	removed, err := Remove(s, owns)
	if !slices.Equal(removed, []ID{mark, ours}) && !slices.Equal(removed, []ID{ours, mark}) || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
	s.want(t, `
-A -f 17 -s rr
-A -t 192.0.2.1:443 -s rr
-a -t 192.0.2.1:443 -r 10.0.0.6:6443 -m -w 1
`)
	if removed, err := Remove(s, owns); removed != nil || err != nil {
		t.Errorf("again: removed %v, %v", removed, err)
	}
}

func testRestoreTimeouts(t *testing.T, s system) {
	path := filepath.Join(t.TempDir(), "before.json")
	openRecord := func() *record.File { return record.Open(path, slog.New(slog.DiscardHandler)) }
	if err := s.SetTimeouts(Timeouts{TCP: 800 * time.Second}); err != nil { // the administrator
		t.Fatal(err)
	}
	for range 2 {
		r := Recording{s, openRecord()}
		if err := r.SetTimeouts(Timeouts{TCP: time.Hour, TCPFin: 60 * time.Second, UDP: 300 * time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetTimeouts(Timeouts{TCPFin: 70 * time.Second}); err != nil { // again
		t.Fatal(err)
	}
	for _, want := range []string{"tcp = 13m20s", ""} {
		done, err := RestoreTimeouts(s, openRecord())
		if strings.Join(done, "\n") != want || err != nil {
			t.Errorf("put back %q, %v, want %q", done, err, want)
		}
	}
	if got, err := s.Timeouts(); err != nil || got.String() != "Timeout (tcp tcpfin udp): 800 70 300" {
		t.Errorf("%s, %v", got, err)
	}
}
