package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/guest"
)

// watch notices when a part of the cluster dies while it starts, so that the
// start fails with that part's last words instead of a timeout.
type watch struct {
	ctx    context.Context
	fail   context.CancelCauseFunc
	guests map[string]string // name to channel
}

func newWatch(ctx context.Context) *watch {
	ctx, fail := context.WithCancelCause(ctx)
	return &watch{ctx: ctx, fail: fail, guests: map[string]string{}}
}

func (w *watch) stop() { w.fail(nil) }

// process watches a host process; its log is shown if it ends.
func (w *watch) process(name string, cmd *exec.Cmd, log string) {
	go func() {
		err := cmd.Wait()
		w.fail(fmt.Errorf("%s ended (%s); the end of its log:\n%s", name, status(err), tailOf(log, 15)))
	}()
}

func status(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// guest watches a node's guest.
func (w *watch) guest(name string, cmd *exec.Cmd, channel string) {
	w.guests[name] = channel
	w.process(name+"'s guest", cmd, guest.ConsolePath(channel))
}

// failedGuest reports a node that says of itself that it failed.
func (w *watch) failedGuest() error {
	for name, channel := range w.guests {
		if err := guest.Failure(channel); err != nil {
			service, _, _ := strings.Cut(err.Error(), " ")
			return fmt.Errorf("%s: %w; the end of its log:\n%s", name, err, tailOf(filepath.Join(channel, service+".log"), 15))
		}
	}
	return nil
}

// pollAPI is how often the API server is asked for progress.
const pollAPI = 200 * time.Millisecond

// until waits for done to return nil. An error of done is not final, and is
// part of the message if the time runs out.
func (w *watch) until(done func(context.Context) error) error {
	tick := time.NewTicker(pollAPI)
	defer tick.Stop()
	var last error
	for {
		if err := done(w.ctx); err == nil {
			return nil
		} else if w.ctx.Err() == nil {
			last = err
		}
		if err := w.failedGuest(); err != nil {
			return err
		}
		var final *finalError
		if errors.As(last, &final) {
			return last
		}
		select {
		case <-w.ctx.Done():
			return errors.Join(context.Cause(w.ctx), last)
		case <-tick.C:
		}
	}
}

// finalError marks a condition that waiting does not cure.
type finalError struct{ error }

// tailOf is the end of a file, for messages.
func tailOf(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "(no log: " + err.Error() + ")"
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return "  | " + strings.Join(all[max(0, len(all)-lines):], "\n  | ")
}
