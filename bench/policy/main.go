// Command policy measures the policy controller on this machine's kernel, in
// network namespaces of its own, and judges it. It needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// errMissed says that a target was missed.
var errMissed = errors.New("the benchmark ran, but not all targets hold")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-policy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	agent := flag.String("agent", "bin/kube-router", "the program whose memory is measured")
	results := flag.String("results", "bench/results/policy.json", "where the rows and targets are written")
	only := flag.String("only", "", "one part alone: changes, connect, compile or memory; what is left out counts as missed")
	profile := flag.String("profile", "", "a directory for CPU and heap profiles of the parts changes and compile")
	flag.Parse()
	if flag.NArg() > 0 {
		return child(ctx, flag.Args(), *profile)
	}
	program, err := filepath.Abs(*agent)
	if err != nil {
		return err
	}
	load := hostLoad()
	rows, err := measure(ctx, program, *only, *profile)
	if err != nil {
		return err
	}
	targets := judge(rows)
	if err := writeTable(os.Stdout, rows); err != nil {
		return err
	}
	fmt.Printf("host load %s; %d pods, %d of them of this node, each selected by %d policies\n\n", number(load), podCount, podsPerNode, policiesPerPod)
	if err := writeTargets(os.Stdout, targets); err != nil {
		return err
	}
	if err := writeResults(*results, rows, targets, load); err != nil {
		return err
	}
	if !held(targets) {
		return errMissed
	}
	return nil
}

// measure runs the parts one after the other, so that none disturbs another.
func measure(ctx context.Context, program, only, profile string) (all []Row, err error) {
	began := time.Now()
	progress := func(what string) {
		since := time.Since(began).Round(time.Second)
		fmt.Fprintf(os.Stderr, "[%02d:%02d] %s\n", int(since.Minutes()), int(since.Seconds())%60, what)
	}
	for _, part := range []struct {
		name, says string
		rows       func() ([]Row, error)
	}{
		{changesChild, "changes of the cluster", func() ([]Row, error) { return runChild[[]Row](ctx, "-profile", profile, changesChild) }},
		{memoryChild, "memory of the agent", func() ([]Row, error) { return runChild[[]Row](ctx, memoryChild, program) }},
		{compileChild, "compiling 100,000 pods and 75,000 policies", func() ([]Row, error) { return runChild[[]Row](ctx, "-profile", profile, compileChild) }},
		{connectChild, "connections", func() ([]Row, error) { return measureConnections(ctx, progress) }},
	} {
		if only != "" && only != part.name {
			continue
		}
		progress(part.says)
		rows, err := part.rows()
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil { // the targets of this part are missed then
			rows = []Row{{What: part.name, Note: err.Error()}}
		}
		all = append(all, rows...)
	}
	return all, nil
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
