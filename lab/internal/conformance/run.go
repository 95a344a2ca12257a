// Package conformance runs Kubernetes' own end-to-end tests on a cluster of
// the lab and judges them.
package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kube-router/kube-router/lab/internal/progress"
)

// Options say which specs run, and where.
type Options struct {
	// Focus and Skip are regular expressions over the names of the specs.
	Focus, Skip string
	// Expect is how many specs Focus and Skip have to select; 0 stands for
	// any number but none.
	Expect int
	// Parallel is how many specs run at once.
	Parallel int
	// Kubeconfig and BinDir are those of the lab.
	Kubeconfig, BinDir string
	// Kept gets the output of specs that fail; what it held before is removed.
	Kept string
	// KeepNamespaces leaves the namespaces of specs that fail in the cluster.
	KeepNamespaces bool
}

// ErrFailed means that not all specs pass; the log has said which.
var ErrFailed = errors.New("the conformance tests failed")

// specTimeout ends a spec that hangs; the slowest take three minutes.
const specTimeout = 15 * time.Minute

// alone marks specs that disturb others.
var alone = regexp.MustCompile(`\[(Serial|Disruptive)\]`)

// runner runs specs: a process of e2e.test for each, which costs three
// seconds of CPU time, ends with the spec and tells its output from others'.
type runner struct {
	Options
	scratch string
	log     *progress.Log
	total   int
	mu      sync.Mutex
	done    []spec
}

// Run runs the specs and ends with a verdict.
func Run(ctx context.Context, log *progress.Log, o Options) error {
	if err := os.RemoveAll(o.Kept); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "kube-router-conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	r := &runner{Options: o, scratch: scratch, log: log}
	names, err := r.selected(ctx)
	if err != nil {
		return err
	}
	if err := counted(len(names), o.Expect); err != nil {
		return err
	}
	r.total = len(names)
	begin := time.Now()
	title := fmt.Sprintf("%d specs, %d at once", len(names), o.Parallel)
	_ = log.Step(title, func() error { return r.all(ctx, names) })
	if ctx.Err() != nil {
		return fmt.Errorf("stopped after %d of %d specs: %w", len(r.done), r.total, context.Cause(ctx))
	}
	return verdict(log, r.done, r.total, o.Kept, time.Since(begin))
}

// counted keeps a focus that has come to match nothing, or less than it did,
// from looking like success.
func counted(found, want int) error {
	if found == 0 {
		return errors.New("no spec matches the focus: see .lab/bin/e2e.test --ginkgo.dry-run --ginkgo.v")
	}
	if want != 0 && found != want {
		return fmt.Errorf("%d specs match the focus, %d are expected: correct the focus, or the number", found, want)
	}
	return nil
}

// selected asks e2e.test which specs the focus selects.
func (r *runner) selected(ctx context.Context) ([]string, error) {
	report := filepath.Join(r.scratch, "selected.json")
	args := []string{"--ginkgo.dry-run", "--ginkgo.focus=" + r.Focus}
	if r.Skip != "" {
		args = append(args, "--ginkgo.skip="+r.Skip)
	}
	if out, err := r.e2e(ctx, report, args...); err != nil {
		return nil, fmt.Errorf("e2e.test cannot list its specs: %w\n%s", err, out)
	}
	specs, err := readReport(report)
	var names []string
	for _, s := range specs {
		names = append(names, s.name)
	}
	return names, err
}

// e2e runs Kubernetes' test binary and returns what it prints.
func (r *runner) e2e(ctx context.Context, report string, args ...string) ([]byte, error) {
	args = append(args, "--kubeconfig="+r.Kubeconfig, "--provider=skeleton", "--ginkgo.no-color", "--ginkgo.v",
		"--ginkgo.silence-skips", "--ginkgo.timeout="+specTimeout.String(), "--ginkgo.json-report="+report,
		fmt.Sprintf("--delete-namespace-on-failure=%t", !r.KeepNamespaces))
	cmd := exec.CommandContext(ctx, filepath.Join(r.BinDir, "e2e.test"), args...)
	cmd.Env = append(os.Environ(), "PATH="+r.BinDir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	// An interrupted spec removes its namespace, unless a terminal interrupts
	// it a second time.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	return cmd.CombinedOutput()
}

// all runs the specs that may share the cluster side by side, the others
// after them one by one.
func (r *runner) all(ctx context.Context, names []string) error {
	shared := make(chan string, len(names))
	var single []string
	for _, name := range names {
		if alone.MatchString(name) {
			single = append(single, name)
		} else {
			shared <- name
		}
	}
	close(shared)
	var workers sync.WaitGroup
	for range r.Parallel {
		workers.Go(func() {
			for name := range shared {
				r.one(ctx, name)
			}
		})
	}
	workers.Wait()
	for _, name := range single {
		r.one(ctx, name)
	}
	return ctx.Err()
}

// one runs one spec, unless the whole was interrupted.
func (r *runner) one(ctx context.Context, name string) {
	if ctx.Err() != nil {
		return
	}
	report := filepath.Join(r.scratch, slug(name)+".json")
	out, err := r.e2e(ctx, report, "--ginkgo.focus="+regexp.QuoteMeta(name)+"$")
	if ctx.Err() != nil {
		return
	}
	s := ended(name, report, err)
	_ = os.Remove(report) // 13 MB: it lists all of Kubernetes' specs
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, s)
	r.log.Printf("%2d of %d  %-6s %4.0fs  %s", len(r.done), r.total, word(s), s.took.Seconds(), s.name)
	if s.state != statePassed {
		r.log.Printf("          %s", s.problem)
		r.keep(s, out)
	}
}

func (r *runner) keep(s spec, out []byte) {
	err := os.MkdirAll(r.Kept, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(r.Kept, slug(s.name)+".log"), bytes.TrimLeft(out, "\n"), 0o644)
	}
	if err != nil {
		r.log.Printf("the output of this spec is lost: %v", err)
	}
}

// verdict tells which specs failed, and how many of all pass.
func verdict(log *progress.Log, done []spec, total int, kept string, took time.Duration) error {
	passed := 0
	for _, s := range done {
		if s.state == statePassed {
			passed++
		} else {
			log.Printf("%s: %s (%s)", s.state, s.name, s.problem)
		}
	}
	log.Printf("%d of %d specs pass (%.0f min)", passed, total, took.Minutes())
	if passed < total || total == 0 {
		return fmt.Errorf("%w: the output of the failed specs is in %s", ErrFailed, kept)
	}
	return nil
}

func word(s spec) string {
	if s.state == statePassed {
		return "ok"
	}
	return s.state
}

var (
	notInFileNames = regexp.MustCompile(`[^a-zA-Z0-9]+`)
	tags           = regexp.MustCompile(`\[[^\]]*\]`)
)

// slug is a spec's name as a file's: without its tags.
func slug(name string) string {
	name = tags.ReplaceAllString(name, "")
	return strings.ToLower(strings.Trim(notInFileNames.ReplaceAllString(name, "-"), "-"))
}
