package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/kube-router/kube-router/lab/internal/bench"
	"github.com/kube-router/kube-router/lab/internal/bench/node"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// mostWait is how long anything is waited for before it is "over" that.
const mostWait = 10 * time.Minute

// runBench measures Service proxies in clusters of their own.
func runBench(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] != "services" {
		return fmt.Errorf("%w: lab bench services [--sizes 600,1000,5000] [--proxies ours,ipvs,iptables]", errUsage)
	}
	flags := flag.NewFlagSet("lab bench services", flag.ContinueOnError)
	sizes := flags.String("sizes", "600,1000,5000", "numbers of Services")
	proxies := flags.String("proxies", "ours,ipvs,iptables", "what to measure: ours, and kube-proxy in its modes ipvs and iptables")
	wait := flags.Duration("wait", mostWait, "how long anything is waited for")
	if err := parse(flags, args[1:]); err != nil {
		return err
	}
	plan, err := bench.NewPlan(*sizes, *proxies)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	ws, err := workspace.Find()
	if err != nil {
		return err
	}
	log := progress.New(os.Stderr)
	err = bench.Services(ctx, ws, log, plan, *wait, os.Stdout)
	if errors.Is(err, bench.ErrMissed) {
		log.Printf("the benchmark ran, but not all targets hold")
		return exitError(1)
	}
	if err == nil {
		log.Printf("all targets hold")
	}
	return err
}

// measureOnNode is the part of the benchmark that runs on a node; it prints
// its row and nothing else.
func measureOnNode(ctx context.Context, args []string) error {
	var o node.Options
	flags := flag.NewFlagSet("lab "+bench.NodeCommand, flag.ContinueOnError)
	flags.StringVar(&o.Proxy, "proxy", "", "the proxy's name in the row")
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "the administrator's")
	flags.StringVar(&o.Log, "log", "", "file for the proxy's output")
	flags.StringVar(&o.Metrics, "metrics", "", "URL of the proxy's metrics")
	flags.IntVar(&o.Services, "services", 0, "number of Services that are there")
	flags.DurationVar(&o.Wait, "wait", mostWait, "how long anything is waited for")
	flags.BoolVar(&o.Sequence, "sequence", false, "make a sequence of connections")
	flags.BoolVar(&o.Few, "few", false, "compare with few Services")
	if err := parse(flags, args); err != nil {
		return err
	}
	if o.Command = flags.Args(); len(o.Command) == 0 {
		return fmt.Errorf("%w: lab %s is run by lab bench, not by hand", errUsage, bench.NodeCommand)
	}
	return json.NewEncoder(os.Stdout).Encode(node.Measure(ctx, o, os.Stderr))
}
