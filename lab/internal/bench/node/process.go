package node

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/lab/internal/bench"
)

// proxy is the process that is measured.
type proxy struct {
	cmd   *exec.Cmd
	begin time.Time
	log   string
	ended chan struct{}
}

func startProxy(command []string, log string) (*proxy, error) {
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &proxy{cmd: exec.Command(command[0], command[1:]...), log: log, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	p.begin = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	return p, nil
}

// readProgram brings a program into the page cache: reading it through hostfs
// takes longer than some proxies need to start, and says nothing of them.
func readProgram(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return err
}

func (p *proxy) stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// alive returns a context that ends with the proxy, for what waits for it.
func (p *proxy) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, fail := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.ended:
			fail(fmt.Errorf("the proxy ended (%s); the end of its log:\n%s", p.cmd.ProcessState, p.tail()))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { fail(nil) }
}

// tail is the end of the proxy's log.
func (p *proxy) tail() string {
	data, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

func (p *proxy) proc(file string) string {
	return fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file)
}

// clockTick is the unit of times in /proc/PID/stat, USER_HZ.
const clockTick = 10 * time.Millisecond

// cpu is the time that the proxy, and the programs it ran, took so far.
func (p *proxy) cpu() (time.Duration, error) {
	data, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return 0, err
	}
	return parseCPU(string(data))
}

// parseCPU adds utime, stime, cutime and cstime, fields 14 to 17 of
// /proc/PID/stat (proc(5)). The name before them may contain anything.
func parseCPU(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 15 {
		return 0, fmt.Errorf("/proc/PID/stat has %d fields after the name, want more than 14: %q", len(fields), stat)
	}
	var ticks time.Duration
	for _, f := range fields[11:15] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		ticks += time.Duration(n)
	}
	return ticks * clockTick, nil
}

func (p *proxy) memory() (*bench.Memory, error) {
	data, err := os.ReadFile(p.proc("status"))
	if err != nil {
		return nil, err
	}
	return parseMemory(data), nil
}

// parseMemory reads /proc/PID/status, whose kB are 1,024 bytes.
func parseMemory(status []byte) *bench.Memory {
	values := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if kb, ok := strings.CutSuffix(strings.TrimSpace(value), " kB"); ok {
			n, _ := strconv.ParseFloat(kb, 64)
			values[name] = n
		}
	}
	const mb = 1e6 / 1024
	return &bench.Memory{
		Total: values["VmRSS"] / mb, Anonymous: values["RssAnon"] / mb,
		File: (values["RssFile"] + values["RssShmem"]) / mb, Peak: values["VmHWM"] / mb,
	}
}

const (
	// restTime is how long the proxy must have done next to nothing to be at
	// rest: longer than kube-proxy delays a change.
	restTime = 3 * time.Second
	// restCPU is what it may take in that time.
	restCPU = 60 * time.Millisecond
)

// rest waits until the proxy is at rest, for limit at most, and returns the
// CPU time it has had by then.
func (p *proxy) rest(ctx context.Context, limit time.Duration) (time.Duration, error) {
	deadline := time.Now().Add(limit)
	before, err := p.cpu()
	for err == nil {
		if err := sleep(ctx, restTime); err != nil {
			return 0, err
		}
		var now time.Duration
		if now, err = p.cpu(); err != nil {
			break
		}
		if now-before <= restCPU || time.Now().After(deadline) {
			return now, nil
		}
		before = now
	}
	return 0, err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// countRules counts the iptables rules of all tables.
func countRules(ctx context.Context) (int, error) {
	out, err := exec.CommandContext(ctx, "iptables-save").Output()
	if err != nil {
		return 0, fmt.Errorf("iptables-save: %w", err)
	}
	return parseRules(string(out)), nil
}

func parseRules(save string) int {
	n := 0
	for line := range strings.Lines(save) {
		if strings.HasPrefix(line, "-A ") {
			n++
		}
	}
	return n
}
