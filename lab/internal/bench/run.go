package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/bench/load"
	"github.com/kube-router/kube-router/lab/internal/build"
	"github.com/kube-router/kube-router/lab/internal/cluster"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// fillers is how many Services are created at once.
const fillers = 16

// ErrMissed says that a target was missed.
var ErrMissed = errors.New("a target is missed")

// Services measures everything of the plan and judges it. The table goes to
// out, and with the targets to bench/results/services.json. It returns
// ErrMissed if all went well but a target is missed.
func Services(ctx context.Context, ws workspace.Workspace, log *progress.Log, p Plan, wait time.Duration, out io.Writer) error {
	if p.needsKubeProxy() {
		if err := build.Run(ctx, ws, log, []string{"kube-proxy"}); err != nil {
			return err
		}
	}
	s := &session{ws: ws, lab: cluster.New(ws), log: log, plan: p, wait: wait}
	for _, size := range p.Sizes {
		for _, proxy := range p.Proxies {
			row, err := s.measure(ctx, proxy, size)
			if err != nil {
				_ = s.report(out) // what is known so far is worth seeing
				return fmt.Errorf("%s at %d: %w", proxy, size, err)
			}
			s.rows = append(s.rows, row)
		}
	}
	return s.report(out)
}

type session struct {
	ws   workspace.Workspace
	lab  *cluster.Lab
	log  *progress.Log
	plan Plan
	wait time.Duration
	rows []Row
}

// measure runs one proxy in a cluster of its own: no other way leaves a
// kernel in which nothing of another proxy is.
func (s *session) measure(ctx context.Context, proxy string, size int) (row Row, err error) {
	busy := hostLoad()
	o := cluster.Options{Nodes: 1, Router: cluster.RouterNone, NeedProduct: true, Memory: "3G"}
	if err := s.lab.Up(ctx, s.log, o); errors.Is(err, cluster.ErrUp) {
		return row, fmt.Errorf("the benchmark needs a cluster of its own: %w", err)
	} else if err != nil {
		return row, err
	}
	defer func() {
		_, downErr := s.lab.Down()
		err = errors.Join(err, downErr)
	}()
	client, err := load.NewClient(s.lab.Kubeconfig(), fillers)
	if err != nil {
		return row, err
	}
	if err := s.log.Step(fmt.Sprintf("creating %d Services", size), func() error {
		return client.Fill(ctx, fillers, 0, size)
	}); err != nil {
		return row, err
	}
	err = s.log.Step(fmt.Sprintf("measuring %s at %d Services", proxy, size), func() error {
		row, err = s.onNode(ctx, proxy, size)
		return err
	})
	row.Load = busy
	return row, err
}

// hostLoad is the first of the load averages, 0 if the kernel does not tell.
func hostLoad() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// onNode runs the measuring process on the node, and reads the row that is
// all it prints.
func (s *session) onNode(ctx context.Context, proxy string, size int) (Row, error) {
	self, err := os.Executable()
	if err != nil {
		return Row{}, err
	}
	const proxyLog = "/var/log/bench/proxy.log"
	command := []string{
		self, NodeCommand, "--proxy", proxy, "--services", strconv.Itoa(size), "--wait", s.wait.String(),
		"--kubeconfig", s.lab.Kubeconfig(), "--log", proxyLog, "--metrics", metricsURL(proxy),
		"--sequence=" + strconv.FormatBool(size == s.plan.Sizes[0]),
		"--few=" + strconv.FormatBool(size == s.plan.Sizes[len(s.plan.Sizes)-1]), "--",
	}
	command = append(command, Command(proxy, s.ws.Path("bin"), s.lab.Kubeconfig())...)
	var out bytes.Buffer
	lines := &lineWriter{line: func(l string) { s.log.Printf("  %s", l) }}
	status, err := s.lab.Exec(ctx, 1, command, &out, lines)
	s.keepLog(ctx, proxyLog, fmt.Sprintf("%s-%d.log", proxy, size))
	if err != nil {
		return Row{}, err
	}
	row := Row{}
	if err := json.Unmarshal(out.Bytes(), &row); err != nil {
		return row, fmt.Errorf("the measuring process on the node ended with status %d and printed no result (%w): %s", status, err, out.Bytes())
	}
	return row, nil
}

// keepLog copies the proxy's log out of the node, for whoever wonders about a
// figure. It is a courtesy: the figures do not depend on it.
func (s *session) keepLog(ctx context.Context, path, name string) {
	dir := s.ws.Path("bench")
	if os.MkdirAll(dir, 0o755) != nil {
		return
	}
	var log bytes.Buffer
	if _, err := s.lab.Exec(ctx, 1, []string{"cat", path}, &log, io.Discard); err == nil {
		_ = os.WriteFile(filepath.Join(dir, name), log.Bytes(), 0o644)
	}
}

// report prints and writes what was found.
func (s *session) report(out io.Writer) error {
	targets := Judge(s.rows)
	if err := WriteTable(out, s.rows); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if err := WriteTargets(out, targets); err != nil {
		return err
	}
	path := s.ws.Source("bench", "results", "services.json")
	if err := writeResults(path, s.rows, targets); err != nil {
		return err
	}
	s.log.Printf("results are in %s, the proxies' logs in %s", path, s.ws.Path("bench"))
	if !Held(targets) {
		return ErrMissed
	}
	return nil
}

func writeResults(path string, rows []Row, targets []Target) error {
	data, err := json.MarshalIndent(map[string]any{"rows": rows, "targets": targets}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}

// lineWriter hands on whole lines.
type lineWriter struct {
	rest []byte
	line func(string)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 {
			return len(p), nil
		}
		w.line(string(w.rest[:end]))
		w.rest = w.rest[end+1:]
	}
}
