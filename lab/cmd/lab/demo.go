package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/kube-router/kube-router/lab/internal/cluster"
	"github.com/kube-router/kube-router/lab/internal/demo"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// runDemo walks through the exercise on a cluster of its own, which it takes
// down afterwards unless KEEP=1 is in the environment.
func runDemo(ctx context.Context, args []string) error {
	o := cluster.Options{Router: cluster.RouterNone, NeedProduct: true}
	flags := flag.NewFlagSet("lab demo", flag.ContinueOnError)
	flags.IntVar(&o.Nodes, "nodes", 3, "number of nodes")
	flags.StringVar(&o.Memory, "memory", "2G", "memory of each node")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	ws, err := workspace.Find()
	if err != nil {
		return err
	}
	lab := cluster.New(ws)
	log := progress.New(os.Stdout)
	log.Printf("a cluster of %d nodes; the first time this takes about 15 minutes, since Kubernetes is compiled once", o.Nodes)
	if err := lab.Up(ctx, log, o); errors.Is(err, cluster.ErrUp) {
		return fmt.Errorf("the demo needs a cluster of its own: %w", err)
	} else if err != nil {
		return err
	}
	err = demo.Run(ctx, demo.Options{
		Kubeconfig: lab.Kubeconfig(), BinDir: ws.Path("bin"), Manifest: ws.Source("deploy", "kube-router-all-features.yaml"),
		Nodes: o.Nodes, Out: os.Stdout,
	})
	if os.Getenv("KEEP") == "1" {
		log.Printf("the cluster stays: export KUBECONFIG=%s; lab down ends it", lab.Kubeconfig())
		return err
	}
	_, downErr := lab.Down()
	log.Printf("the cluster is down")
	return errors.Join(err, downErr)
}
