// Package demo walks through the hands-on exercise on a cluster of the lab:
// it prints each command with its real output, and judges what it sees.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Options says where the cluster is.
type Options struct {
	// Kubeconfig and BinDir are those of the lab.
	Kubeconfig, BinDir string
	// Manifest is the file that users apply.
	Manifest string
	// Nodes is how many nodes the cluster has.
	Nodes int
	Out   io.Writer
}

// ErrFailed means that a criterion does not hold; the table has said which.
var ErrFailed = errors.New("the demo failed")

// settle is how long a cluster may take to come to an expected state.
const settle = 30 * time.Second

// walk is one walk through the exercise. After a command that has to succeed
// failed, the rest is skipped and its criteria stay "not ok".
type walk struct {
	ctx      context.Context
	env      []string
	manifest string
	nodes    int
	out      io.Writer
	start    time.Time
	results  map[string]result
	last     string // is printed after the table
	err      error
}

type result struct {
	ok       bool
	evidence string
}

type agent struct{ pod, node string }

// Run walks through the exercise and ends with the table of its criteria and
// the status of a node.
func Run(ctx context.Context, o Options) error {
	w := &walk{
		ctx: ctx, manifest: o.Manifest, nodes: o.Nodes, out: o.Out, start: time.Now(), results: map[string]result{},
		env: append(os.Environ(), "KUBECONFIG="+o.Kubeconfig, "PATH="+o.BinDir+string(filepath.ListSeparator)+os.Getenv("PATH")),
	}
	exercise(w)
	if w.err != nil {
		fmt.Fprintf(w.out, "\nstopped: %v\n", w.err)
	}
	return w.table()
}

func (w *walk) chapter(title string) {
	if w.err == nil {
		fmt.Fprintf(w.out, "\n[%s] %s\n", time.Since(w.start).Round(time.Second), title)
	}
}

// show runs a command as a user would type it and prints what it prints.
func (w *walk) show(command string) string {
	if w.err != nil {
		return ""
	}
	fmt.Fprintf(w.out, "\n$ %s\n", command)
	out, err := w.run(command)
	fmt.Fprint(w.out, indent(out))
	if w.ctx.Err() != nil {
		w.err = context.Cause(w.ctx)
	} else if err != nil {
		fmt.Fprintf(w.out, "    (%v)\n", err)
	}
	return out
}

// must is show for a command without which nothing that follows makes sense.
func (w *walk) must(command string) string {
	if w.err != nil {
		return ""
	}
	fmt.Fprintf(w.out, "\n$ %s\n", command)
	out, err := w.run(command)
	fmt.Fprint(w.out, indent(out))
	if err != nil {
		w.err = fmt.Errorf("%s: %w", command, err)
	}
	return out
}

// until repeats a command until what it prints is good or settle is over, and
// shows the last output.
func (w *walk) until(good func(string) bool, command string) string {
	if w.err != nil {
		return ""
	}
	fmt.Fprintf(w.out, "\n$ %s\n", command)
	out := w.poll(good, command)
	fmt.Fprint(w.out, indent(out))
	return out
}

func (w *walk) poll(good func(string) bool, command string) string {
	deadline := time.Now().Add(settle)
	for {
		out, _ := w.run(command)
		if good(out) || time.Now().After(deadline) {
			return out
		}
		select {
		case <-w.ctx.Done():
			w.err = context.Cause(w.ctx)
			return out
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (w *walk) run(command string) (string, error) {
	cmd := exec.CommandContext(w.ctx, "sh", "-c", command)
	cmd.Env = w.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// apply applies YAML to the namespace of the exercise.
func (w *walk) apply(yaml string) {
	w.must("kubectl -n test apply -f - << 'EOF'\n" + yaml + "EOF")
}

func (w *walk) clusterIP() string {
	out, err := w.run(`kubectl -n test get svc web -o jsonpath='{.spec.clusterIP}'`)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("the web Service has no ClusterIP: %s", out)
	}
	return out
}

// agents are the pods of the DaemonSet, in the order of their nodes.
func (w *walk) agents() []agent {
	out, err := w.run(`kubectl -n kube-system get pod -l k8s-app=kube-router --sort-by=.spec.nodeName ` +
		`-o jsonpath='{range .items[*]}{.metadata.name} {.spec.nodeName}{"\n"}{end}'`)
	if err != nil {
		return nil
	}
	var agents []agent
	for _, line := range lines(out) {
		if f := strings.Fields(line); len(f) == 2 {
			agents = append(agents, agent{pod: f[0], node: f[1]})
		}
	}
	return agents
}

func (w *walk) firstAgent() string {
	agents := w.agents()
	if len(agents) == 0 {
		return "POD"
	}
	return agents[0].pod
}

func (w *walk) judge(criterion string, ok bool, evidence string) {
	if w.err != nil {
		return
	}
	w.results[criterion] = result{ok: ok, evidence: evidence}
	fmt.Fprintf(w.out, "\n    => %s: %s (%s)\n", word(ok), criterion, evidence)
}

// table prints the verdict and then the status, and says whether everything holds.
func (w *walk) table() error {
	fmt.Fprintf(w.out, "\n%-6s  %s\n", "", "criterion, and the evidence")
	held := 0
	for _, criterion := range criteria {
		held += w.row(criterion)
	}
	ours := 0
	for _, criterion := range besides {
		ours += w.row(criterion)
	}
	fmt.Fprintf(w.out, "\n%d of %d criteria hold (%s)\n", held, len(criteria), time.Since(w.start).Round(time.Second))
	fmt.Fprint(w.out, w.last)
	if held < len(criteria) || ours < len(besides) {
		return ErrFailed
	}
	return nil
}

func (w *walk) row(criterion string) int {
	r, judged := w.results[criterion]
	if !judged {
		r.evidence = "not reached"
	}
	fmt.Fprintf(w.out, "%-6s  %s\n        %s\n", word(r.ok), criterion, r.evidence)
	if r.ok {
		return 1
	}
	return 0
}

func word(ok bool) string {
	if ok {
		return "ok"
	}
	return "not ok"
}

func indent(out string) string {
	if out = strings.TrimRight(out, "\n"); out == "" {
		return ""
	}
	return "    " + strings.ReplaceAll(out, "\n", "\n    ") + "\n"
}
