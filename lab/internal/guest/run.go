package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// killTime is how long a guest may take to kill a command.
const killTime = 2 * time.Second

// Run asks the guest behind the channel directory to run a command, copies
// its output as it comes and returns its exit status. alive reports why the
// guest can no longer answer, nil while it can.
func Run(ctx context.Context, channel string, req Request, stdout, stderr io.Writer, alive func() error) (int, error) {
	path, err := submit(channel, req)
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, suffix := range []string{"", suffixOut, suffixErr, suffixDone, suffixKill} {
			os.Remove(path + suffix)
		}
	}()
	out, errOut := &tail{path: path + suffixOut, to: stdout}, &tail{path: path + suffixErr, to: stderr}
	defer out.close()
	defer errOut.close()
	tick := time.NewTicker(pollEvery / 2)
	defer tick.Stop()
	interrupted, giveUp := ctx.Done(), (<-chan time.Time)(nil)
	for {
		// The status is looked for before the output is read: once it is
		// there, all output is.
		var res result
		err := readJSON(path+suffixDone, &res)
		if e := errors.Join(out.copy(), errOut.copy()); e != nil {
			return 0, e
		}
		switch {
		case err == nil && giveUp != nil:
			return 0, context.Cause(ctx)
		case err == nil && res.Error != "":
			return 0, fmt.Errorf("run %s: %s", req.Command[0], res.Error)
		case err == nil:
			return res.Status, nil
		case !errors.Is(err, os.ErrNotExist):
			return 0, err
		}
		if err := alive(); err != nil {
			return 0, err
		}
		select {
		case <-interrupted:
			// The guest kills the command and answers: only then may the
			// request's files go.
			_ = os.WriteFile(path+suffixKill, nil, 0o600)
			interrupted, giveUp = nil, time.After(killTime)
		case <-giveUp:
			return 0, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// submit places the request under a name that no concurrent caller has.
func submit(channel string, req Request) (string, error) {
	f, err := os.CreateTemp(filepath.Join(channel, requestsDir), "*.new")
	if err != nil {
		return "", fmt.Errorf("the guest's channel: %w", err)
	}
	f.Close()
	path := strings.TrimSuffix(f.Name(), ".new")
	defer os.Remove(f.Name())
	return path, writeJSON(path, req)
}

// tail copies what is added to a file that may not exist yet.
type tail struct {
	path string
	f    *os.File
	to   io.Writer
}

func (t *tail) copy() error {
	if t.f == nil {
		f, err := os.Open(t.path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		t.f = f
	}
	_, err := io.Copy(t.to, t.f)
	return err
}

func (t *tail) close() {
	if t.f != nil {
		t.f.Close()
	}
}
