package bgp

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// quiet hands GoBGP's log on one or more levels lower: its errors are our
// warnings, and what it does all day (timers, accepted connections) is debug.
// The Speaker itself logs sessions that come up or go down.
type quiet struct {
	slog.Handler
	// mute drops everything: GoBGP calls it an error to stop what has stopped,
	// and there is no other way to close its API after a graceful stop.
	mute *atomic.Bool
	// failed is told why a connection that was opened to a peer came to
	// nothing. GoBGP tells that to nobody but its log.
	failed func(peer netip.Addr, why string)
	// unsigned is told that the listeners do not have a peer's password.
	unsigned func(peer netip.Addr, why string)
	// deaf is told whether BFD listens, in the log of BFD.
	deaf *deaf
	peer netip.Addr // whom the records are about, if it is one
}

func lowered(l slog.Level) slog.Level {
	switch {
	case l >= slog.LevelError:
		return slog.LevelWarn
	case l >= slog.LevelWarn:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Enabled is also true for what only the callbacks are to hear of.
func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return !q.mute.Load() && (l >= slog.LevelWarn || q.peer.IsValid() || q.deaf != nil || q.Handler.Enabled(ctx, lowered(l)))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if q.peer.IsValid() {
		if why := failure(r); why != "" {
			q.failed(q.peer, why)
		}
	}
	if q.deaf != nil && q.deaf.note(r) {
		return nil
	}
	if r.Level = q.levelOf(r); !q.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	r.Message = "gobgp: " + r.Message
	return q.Handler.Handle(ctx, r)
}

// levelOf is the level of a record in our log. That a password is not in force is
// an error of ours, for GoBGP a warning.
func (q quiet) levelOf(r slog.Record) slog.Level {
	if r.Message != "failed to set md5" {
		return lowered(r.Level)
	}
	if peer, err := netip.ParseAddr(attribute(r, "Key").String()); err == nil && q.unsigned != nil {
		q.unsigned(peer, attribute(r, "Err").String())
	}
	return slog.LevelError
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	q.Handler = q.Handler.WithAttrs(attrs)
	for _, a := range attrs {
		if addr, err := netip.ParseAddr(a.Value.String()); a.Key == "Key" && err == nil {
			q.peer = addr
		}
	}
	return q
}

func (q quiet) WithGroup(name string) slog.Handler {
	q.Handler = q.Handler.WithGroup(name)
	return q
}

// failure is why a connection failed, if a record says so. Records about
// established sessions say what the events say, too, and their state.
func failure(r slog.Record) string {
	switch r.Message {
	case "failed to connect":
		return attribute(r, "Error").String()
	case "outgoing connection IO error":
		return "the peer closed the connection"
	case "sent notification":
		code, subcode := attribute(r, "Code"), attribute(r, "Subcode")
		if code.Kind() != slog.KindInt64 || subcode.Kind() != slog.KindInt64 {
			return ""
		}
		if code.Int64() == bgp.BGP_ERROR_OPEN_MESSAGE_ERROR && subcode.Int64() == bgp.BGP_ERROR_SUB_BAD_PEER_AS {
			return badPeerAS
		}
		return "refused the session: " + bgp.NewNotificationErrorCode(uint8(code.Int64()), uint8(subcode.Int64())).String()
	}
	return ""
}

func attribute(r slog.Record, key string) (value slog.Value) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			value = a.Value
		}
		return a.Key != key
	})
	return value
}

// unanswered says whether a connection failed without a word from the peer.
func unanswered(why string) bool { return strings.Contains(why, "timeout") }
