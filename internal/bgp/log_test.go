package bgp

import (
	"bytes"
	"errors"
	"log/slog"
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
