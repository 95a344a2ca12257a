package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// The processes that the benchmark starts of itself, by their first argument.
// Each has a network namespace of its own, which ends with it.
const (
	changesChild = "changes"
	connectChild = "connect"
	memoryChild  = "memory"
	compileChild = "compile"
)

// child is what runs in the processes.
func child(ctx context.Context, args []string, profile string) (err error) {
	stop, err := startProfile(profile, args[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	switch name := args[0]; name {
	case changesChild:
		return measureChanges(ctx, os.Stdout)
	case compileChild:
		return measureCompile(ctx, os.Stdout)
	case memoryChild:
		return measureMemory(ctx, args[1], os.Stdout)
	case connectChild:
		l, err := layoutOf(args[1])
		if err != nil {
			return err
		}
		return serveConnections(ctx, l, os.Stdin, os.Stdout)
	default:
		return fmt.Errorf("unknown argument %q", name)
	}
}

func newChild(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// runChild runs a process to its end, and reads the one value that it prints.
func runChild[T any](ctx context.Context, args ...string) (result T, err error) {
	cmd, err := newChild(ctx, args...)
	if err != nil {
		return result, err
	}
	out, err := cmd.Output()
	if err != nil {
		return result, fmt.Errorf("the process that measures: %w; what it said is above", errors.Join(err, context.Cause(ctx)))
	}
	return result, json.Unmarshal(out, &result)
}

// startChild runs a process that is spoken to, until stop.
func startChild(ctx context.Context, args ...string) (in io.Writer, out io.Reader, stop func(), err error) {
	cmd, err := newChild(ctx, args...)
	if err != nil {
		return nil, nil, nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, fmt.Errorf("starting a process in a network namespace, which needs root: %w", err)
	}
	return stdin, stdout, func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}, nil
}

// memoryOf reads the resident memory of a process.
func memoryOf(pid string) (*Memory, error) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return nil, err
	}
	m := &Memory{}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[0], 64)
		switch name {
		case "VmRSS":
			m.Now = kib * 1024 / 1e6
		case "RssAnon":
			m.Anonymous = kib * 1024 / 1e6
		case "VmHWM":
			m.Peak = kib * 1024 / 1e6
		}
	}
	if m.Now == 0 {
		return nil, fmt.Errorf("process %s has no resident memory", pid)
	}
	return m, nil
}
