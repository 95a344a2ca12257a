package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/kube-router/kube-router/lab/internal/build"
	"github.com/kube-router/kube-router/lab/internal/cluster"
	"github.com/kube-router/kube-router/lab/internal/conformance"
	"github.com/kube-router/kube-router/lab/internal/image"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// What a service proxy and a pod network have to pass: the conformance tests
// for Services, EndpointSlices and pod-to-pod traffic, in Kubernetes 1.36.
const (
	serviceSpecs      = `\[sig-network\] (Services|EndpointSlice|Networking).*\[Conformance\]`
	serviceSpecsCount = 25
)

// runConformance runs Kubernetes' own tests on the cluster that is up, or on
// one of its own, which it takes down afterwards unless KEEP=1 is in the
// environment.
func runConformance(ctx context.Context, args []string) error {
	var o conformance.Options
	flags := flag.NewFlagSet("lab conformance", flag.ContinueOnError)
	name := flags.String("name", "conformance", "the directory below .lab/failed that gets the output of specs that fail")
	flags.StringVar(&o.Focus, "focus", serviceSpecs, "run the specs that match this regular expression")
	flags.StringVar(&o.Skip, "skip", "", "but not those that match this one")
	flags.IntVar(&o.Expect, "expect", 0, "fail unless this many specs are selected (default: 25 without --focus and --skip)")
	flags.IntVar(&o.Parallel, "parallel", runtime.NumCPU(), "how many specs run at once")
	own := cluster.Options{Router: cluster.RouterProduct, Memory: "2G"}
	flags.IntVar(&own.Nodes, "nodes", 3, "number of nodes, where no cluster is up")
	flags.StringVar((*string)(&own.Families), "families", "ipv4", "ipv4, ipv6, or dual for both, where no cluster is up")
	if err := parse(flags, args); err != nil {
		return err
	}
	if o.Parallel < 1 {
		return fmt.Errorf("%w: --parallel %d: it must be 1 or more", errUsage, o.Parallel)
	}
	if o.Expect == 0 && o.Focus == serviceSpecs && o.Skip == "" {
		o.Expect = serviceSpecsCount
	}
	if err := own.Validate(); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	ws, err := workspace.Find()
	if err != nil {
		return err
	}
	o.KeepNamespaces = os.Getenv("KEEP") == "1"
	o.BinDir, o.Kept = ws.Path("bin"), ws.Path("failed", *name)
	log := progress.New(os.Stdout)
	if err := build.Run(ctx, ws, log, []string{"e2e.test"}); err != nil {
		return err
	}
	if err := image.CheckE2E(ctx, ws); err != nil {
		return err
	}
	return onCluster(ctx, log, cluster.New(ws), own, func(lab *cluster.Lab) error {
		o.Kubeconfig = lab.Kubeconfig()
		return conformance.Run(ctx, log, o)
	})
}

// onCluster works on the cluster that is up, or on one of its own.
func onCluster(ctx context.Context, log *progress.Log, lab *cluster.Lab, own cluster.Options, work func(*cluster.Lab) error) error {
	err := lab.Up(ctx, log, own)
	if errors.Is(err, cluster.ErrUp) {
		log.Printf("%v", err)
		return work(lab)
	}
	if err != nil {
		return err
	}
	err = work(lab)
	if os.Getenv("KEEP") == "1" {
		log.Printf("the cluster stays: export KUBECONFIG=%s; lab down ends it", lab.Kubeconfig())
		return err
	}
	_, downErr := lab.Down()
	log.Printf("the cluster is down")
	return errors.Join(err, downErr)
}
