// Command routes measures BGP on this machine: the agent with the routes that
// it learns into the kernel, and speakers with each other, beside BIRD. It runs in
// network namespaces of its own, judges what it measured, and needs root.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// errMissed says that a target was missed.
var errMissed = errors.New("the benchmark ran, but not all targets hold")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench-routes:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	agent := flag.String("agent", "bin/kube-router", "the program that is measured")
	results := flag.String("results", "bench/results/routes.json", "where the rows and targets are written")
	only := flag.String("only", "", "one part alone, by its name; what is left out counts as missed")
	flag.Parse()
	if flag.NArg() > 0 {
		return child(ctx, flag.Args())
	}
	program, err := filepath.Abs(*agent)
	if err != nil {
		return err
	}
	load := hostLoad()
	rows, err := measure(ctx, program, *only)
	if err != nil {
		return err
	}
	targets := judge(rows)
	if err := errors.Join(writeTable(os.Stdout, rows), writeTargets(os.Stdout, targets), writeResults(*results, rows, targets, load)); err != nil {
		return err
	}
	fmt.Printf("host load %s before\n", number(load))
	if !held(targets) {
		return errMissed
	}
	return nil
}

// Who is measured.
const (
	ours = "ours"
	bird = "BIRD"
)

// part is one measurement, in a process and a network namespace of its own.
type part struct {
	name, by, says string
	args           []string
}

func parts(program string) []part {
	var list []part
	for _, by := range []string{ours, bird} {
		list = append(list,
			part{"learn-1000", by, "1,000 prefixes learned, changed and flapped", []string{nodeChild, by, program, "1000"}},
			part{"learn-5000", by, "5,000 prefixes learned", []string{nodeChild, by, program, "5000"}})
	}
	list = append(list, part{"mesh-50", ours, "a mesh of 50", []string{meshChild, "50"}})
	return append(list,
		part{"reflector-200", ours, "200 clients of two reflectors", []string{reflectorChild, ours, "200"}},
		part{"reflector-200", bird, "200 clients of two reflectors", []string{reflectorChild, bird, "200"}},
		// BIRD does not get there: of 1,000 clients some are never told a few prefixes.
		part{"reflector-1000", ours, "1,000 clients of two reflectors", []string{reflectorChild, ours, "1000"}})
}

// measure runs the parts one after the other, so that none disturbs another.
func measure(ctx context.Context, program, only string) (all []Row, err error) {
	began := time.Now()
	for _, p := range parts(program) {
		if only != "" && only != p.name {
			continue
		}
		since := time.Since(began).Round(time.Second)
		fmt.Fprintf(os.Stderr, "[%02d:%02d] %s: %s\n", int(since.Minutes()), int(since.Seconds())%60, p.by, p.says)
		rows, err := runChild(ctx, p.args...)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil { // the targets of this part are missed then
			rows = []Row{{What: p.name, Note: err.Error()}}
		}
		for _, r := range rows {
			r.By = p.by
			all = append(all, r)
		}
	}
	return all, nil
}

// The processes that the benchmark starts of itself, by their first argument.
const (
	nodeChild      = "node"
	meshChild      = "mesh"
	reflectorChild = "reflector"
)

// child is what runs in the processes. It prints its rows.
func child(ctx context.Context, args []string) error {
	n, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("the loopback: %w", err)
	}
	var rows []Row
	switch args[0] {
	case nodeChild:
		rows, err = measureNode(ctx, args[1], args[2], n)
	case meshChild:
		rows, err = measureMesh(ctx, n)
	case reflectorChild:
		rows, err = measureReflectors(ctx, args[1], n)
	default:
		err = fmt.Errorf("unknown argument %q", args[0])
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(rows)
}

func runChild(ctx context.Context, args ...string) (rows []Row, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the process that measures: %w; what it said is above", err)
	}
	return rows, json.Unmarshal(out, &rows)
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
