package bgp

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// quiet hands GoBGP's log on one or more levels lower: its errors are our
// warnings, and what it does all day (timers, accepted connections) is debug.
// The Speaker itself logs sessions that come up or go down.
type quiet struct {
	slog.Handler
	// mute drops everything: GoBGP calls it an error to stop what has stopped,
	// and there is no other way to close its API after a graceful stop.
	mute *atomic.Bool
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

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return !q.mute.Load() && q.Handler.Enabled(ctx, lowered(l))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lowered(r.Level)
	r.Message = "gobgp: " + r.Message
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(attrs), q.mute}
}

func (q quiet) WithGroup(name string) slog.Handler {
	return quiet{q.Handler.WithGroup(name), q.mute}
}
