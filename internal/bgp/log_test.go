package bgp

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

// What GoBGP says each second of a port that it cannot have is said once, and
// again when the reason is another or it is lost once more.
func TestADeafBFDSaysItOnce(t *testing.T) {
	var out bytes.Buffer
	d := &deaf{}
	log := slog.New(quiet{Handler: slog.NewTextHandler(&out, nil), mute: new(atomic.Bool), deaf: d})
	fails := func(why string) {
		t.Helper()
		for range 3 {
			log.Error("Can't listen UDP", slog.Any("Error", errors.New(why)))
		}
		if d.reason() != why {
			t.Errorf("the reason is %q, want %q", d.reason(), why)
		}
	}
	fails("address already in use")
	fails("permission denied")
	log.Info("BFD server is started") // which is not printed
	if d.reason() != "" {
		t.Errorf("BFD listens, and the reason is %q", d.reason())
	}
	fails("permission denied")
	if lines := strings.Count(out.String(), "\n"); lines != 3 {
		t.Errorf("%d lines:\n%s", lines, &out)
	}
}

// A password that is not in force is an error, and its peer is known; other
// warnings of GoBGP's are not.
func TestAPasswordThatIsNotInForceIsAnError(t *testing.T) {
	var out bytes.Buffer
	var told []string
	log := slog.New(quiet{Handler: slog.NewTextHandler(&out, nil), mute: new(atomic.Bool), unsigned: func(peer netip.Addr, why string) {
		told = append(told, peer.String()+" "+why)
	}})
	log.Warn("failed to set md5", "Topic", "Peer", "Key", "192.0.2.1", "Err", "cannot allocate memory")
	log.Warn("failed to unset md5", "Err", "no such file or directory")
	if got := out.String(); strings.Count(got, "level=ERROR") != 1 || strings.Count(got, "level=INFO") != 1 {
		t.Errorf("logged:\n%s", got)
	}
	if len(told) != 1 || told[0] != "192.0.2.1 cannot allocate memory" {
		t.Errorf("told %q", told)
	}
}
