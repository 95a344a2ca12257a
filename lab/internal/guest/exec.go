package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/lab/internal/process"
)

// ErrTimeout is the cause when a guest did not end in its time.
var ErrTimeout = errors.New("timed out")

const channelPrefix = "kube-router-guest-"

// Exec boots a guest only for one command and ends it afterwards. The
// command sees the caller's environment, working directory and files; what it
// writes is lost with the guest, but for the directory of the program itself,
// where `go test` expects coverage profiles.
func Exec(ctx context.Context, command []string, memory string, stdout, stderr io.Writer) (int, error) {
	program, err := exec.LookPath(command[0])
	if err != nil {
		return 0, err
	}
	if program, err = filepath.Abs(program); err != nil {
		return 0, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	channel, err := newChannel()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(channel)
	spec := Spec{Hostname: "guest"}
	if strings.HasPrefix(program, os.TempDir()+"/") {
		spec.Writable = []string{filepath.Dir(program)}
	}
	if err := Prepare(channel, spec); err != nil {
		return 0, err
	}
	req := Request{Command: append([]string{program}, command[1:]...), Dir: dir, Env: guestEnv(os.Environ())}
	number, done := turn(os.TempDir())
	defer done()
	return bootAndRun(ctx, Machine{Channel: channel, Memory: memory, Number: number}, req, stdout, stderr)
}

// turn is a number that no other guest of Exec has now, as long as there are
// not more guests than processors: so that two do not share one while another
// is idle. done gives it back.
func turn(dir string) (number int, done func()) {
	for i := range runtime.NumCPU() {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%sprocessor-%d", channelPrefix, i)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return i, func() { f.Close() }
		}
		f.Close()
	}
	return os.Getpid(), func() {}
}

func bootAndRun(ctx context.Context, m Machine, req Request, stdout, stderr io.Writer) (int, error) {
	cmd, err := Command(m)
	if err != nil {
		return 0, err
	}
	// Should this process be killed, the kernel ends the guest for it.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	defer func() { process.KillGroup(cmd.Process.Pid); <-ended; Kill(m.Channel) }()
	alive := func() error {
		if err := Failure(m.Channel); err != nil {
			return fmt.Errorf("guest: %w", err)
		}
		select {
		case <-ended:
			console, _ := os.ReadFile(ConsolePath(m.Channel))
			return fmt.Errorf("the guest ended before its command did; its console said:\n%s", console)
		default:
			return nil
		}
	}
	return Run(ctx, m.Channel, req, stdout, stderr, alive)
}

// guestEnv is the caller's environment with a PATH that finds system tools.
func guestEnv(env []string) []string {
	var out []string
	for _, kv := range env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			kv = "PATH=" + path + ":" + Path
		}
		out = append(out, kv)
	}
	return out
}

// newChannel makes a channel directory named after this process, and removes
// those whose process was killed before it could.
func newChannel() (string, error) {
	base := "/dev/shm" // in memory: every piece of output is a write
	if st, err := os.Stat(base); err != nil || !st.IsDir() {
		base = os.TempDir()
	}
	stale, _ := filepath.Glob(filepath.Join(base, channelPrefix+"*"))
	for _, dir := range stale {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), channelPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			Kill(dir)
			os.RemoveAll(dir)
		}
	}
	return os.MkdirTemp(base, channelPrefix+strconv.Itoa(os.Getpid())+"-")
}

// WithTimeout is context.WithTimeout with a cause that can be told from an
// interrupt.
func WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%w after %s", ErrTimeout, d))
}
