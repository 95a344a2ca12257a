package watch

import (
	"context"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// RouteKlog sends what client-go logs to log: what it calls an error as a
// warning, all else as a debug line. This package reports the state of the
// connection itself, in one line where client-go has many. It sets a variable
// of klog, so it is for the program's start.
func RouteKlog(log *slog.Logger) {
	klog.SetLogger(quietLogger(log))
}

// quietLogger is log for the use of client-go.
func quietLogger(log *slog.Logger) klog.Logger {
	return logr.FromSlogHandler(quiet{log.Handler()})
}

// quiet lowers the levels of client-go's lines.
type quiet struct{ slog.Handler }

// lowered is the level for a line of client-go. Its verbosity 1 arrives as
// slog level -1, and so on; above 2 it describes its own insides.
func lowered(level slog.Level) slog.Level {
	switch {
	case level >= slog.LevelError:
		return slog.LevelWarn
	case level >= -2:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 1
}

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, lowered(level))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lowered(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }
