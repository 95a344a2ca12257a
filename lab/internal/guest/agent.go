package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how often each side looks into the channel directory: often
// enough not to be felt. A look of the guest's is forty system calls and faults,
// some percent of its only processor: where nothing was asked of it for some
// time, it looks less often, up to pollIdle.
const (
	pollEvery = 20 * time.Millisecond
	pollIdle  = 100 * time.Millisecond
)

// pollAfter is the time until the next look when the last request is some time
// ago.
func pollAfter(idle time.Duration) time.Duration {
	return min(max(idle/20, pollEvery), pollIdle)
}

// RunAgent serves the host's requests from inside a guest, for ever.
func RunAgent(channel string) error {
	spec := &Spec{}
	if err := readJSON(filepath.Join(channel, specFile), spec); err != nil {
		return err
	}
	for _, s := range spec.Services {
		go runService(channel, s)
	}
	if err := writeAtomic(filepath.Join(channel, readyFile), nil); err != nil {
		return err
	}
	taken, last := map[string]bool{}, time.Now()
	for ; ; time.Sleep(pollAfter(time.Since(last))) {
		entries, err := os.ReadDir(filepath.Join(channel, requestsDir))
		if err != nil {
			return fmt.Errorf("the channel to the host is gone: %w", err)
		}
		for _, e := range entries {
			if id := e.Name(); !strings.Contains(id, ".") && !taken[id] {
				taken[id], last = true, time.Now()
				go serve(filepath.Join(channel, requestsDir, id))
			}
		}
	}
}

// runService keeps one program's output in the channel and notes its end,
// which the host takes for a failure of the node.
func runService(channel string, s Service) {
	log, err := openStream(filepath.Join(channel, s.Name+".log"))
	if err != nil {
		_ = writeAtomic(filepath.Join(channel, errorFile), []byte(s.Name+": "+err.Error()))
		return
	}
	for s.After != "" {
		if _, err := os.Stat(filepath.Join(channel, s.After)); err == nil {
			break
		}
		time.Sleep(pollEvery)
	}
	cmd := exec.Command(s.Command[0], s.Command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	err = cmd.Run()
	_ = writeAtomic(filepath.Join(channel, errorFile), fmt.Appendf(nil, "%s ended: %v", s.Name, err))
}

// serve runs one request; path is the request file.
func serve(path string) {
	status, err := runRequest(path)
	res := result{Status: status}
	if err != nil {
		res.Error = err.Error()
	}
	_ = writeJSON(path+suffixDone, res)
}

func runRequest(path string) (int, error) {
	var req Request
	if err := readJSON(path, &req); err != nil {
		return 0, err
	}
	out, err := openStream(path + suffixOut)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	errOut, err := openStream(path + suffixErr)
	if err != nil {
		return 0, err
	}
	defer errOut.Close()
	cmd := exec.Command(req.Command[0], req.Command[1:]...)
	cmd.Dir, cmd.Env = req.Dir, req.Env
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A daemon left behind by the command may keep its output open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go killOnRequest(path+suffixKill, cmd.Process.Pid, ended)
	err = cmd.Wait()
	close(ended)
	return exitStatus(cmd.ProcessState, err)
}

// killOnRequest ends the command's process group when the host asks.
func killOnRequest(path string, pid int, ended <-chan struct{}) {
	tick := time.NewTicker(pollIdle)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			if _, err := os.Stat(path); err == nil {
				_ = unix.Kill(-pid, unix.SIGKILL)
			}
		}
	}
}

// exitStatus follows the shell: 128 and the signal's number for a command
// that a signal ended.
func exitStatus(state *os.ProcessState, err error) (int, error) {
	if state == nil {
		return 0, err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) {
		return state.ExitCode(), nil
	}
	return 0, err
}

// stream is a file on hostfs whose every write reaches the host at once.
// hostfs keeps writes in the guest's page cache otherwise.
type stream struct {
	mu sync.Mutex
	f  *os.File
}

var _ io.WriteCloser = (*stream)(nil)

func openStream(path string) (*stream, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &stream{f: f}, nil
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.f.Write(p)
	if err != nil {
		return n, err
	}
	const push = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return n, unix.SyncFileRange(int(s.f.Fd()), 0, 0, push)
}

func (s *stream) Close() error { return s.f.Close() }
