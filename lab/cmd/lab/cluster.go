package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/cluster"
	"github.com/kube-router/kube-router/lab/internal/network"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

func openLab() (*cluster.Lab, error) {
	ws, err := workspace.Find()
	return cluster.New(ws), err
}

func up(ctx context.Context, args []string) error {
	var o cluster.Options
	flags := flag.NewFlagSet("lab up", flag.ContinueOnError)
	flags.IntVar(&o.Nodes, "nodes", 3, "number of nodes")
	flags.StringVar(&o.Router, "router", cluster.RouterProduct, "kube-router, or none for nodes without a network")
	flags.IntVar(&o.Subnets, "subnets", 1, "2: every other node is in a second subnet, with a router between")
	flags.BoolVar(&o.Peer, "peer", false, "start a BGP router outside of the cluster (BIRD, AS 64600)")
	flags.StringVar((*string)(&o.Families), "families", "ipv4", "ipv4, ipv6, or dual for both: those of nodes, Pods and Services")
	flags.StringVar(&o.Memory, "memory", "2G", "memory of each node")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	lab, err := openLab()
	if err != nil {
		return err
	}
	log := progress.New(os.Stdout)
	err = lab.Up(ctx, log, o)
	if errors.Is(err, cluster.ErrUp) {
		log.Printf("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	log.Printf("the cluster is up: export KUBECONFIG=%s", lab.Kubeconfig())
	return nil
}

func down(args []string) error {
	if err := parse(flag.NewFlagSet("lab down", flag.ContinueOnError), args); err != nil {
		return err
	}
	lab, err := openLab()
	if err != nil {
		return err
	}
	was, err := lab.Down()
	if err == nil && !was {
		fmt.Println("no lab is up")
	}
	return err
}

// execOnNode runs a command on a node: one argument is a line for the shell,
// several are a command as it is.
func execOnNode(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lab exec", flag.ContinueOnError)
	node := flags.String("node", "", "the node: 2, or node2")
	if err := parse(flags, args); err != nil {
		return err
	}
	rest := flags.Args()
	if *node == "" && len(rest) > 0 {
		*node, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	if *node == network.RouterRole || *node == network.PeerRole {
		return execInNamespace(ctx, *node, rest)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(*node, "node"))
	if err != nil || len(rest) == 0 {
		return fmt.Errorf("%w: lab exec --node 2 'COMMAND LINE', or lab exec node2 -- COMMAND [ARGS]", errUsage)
	}
	if len(rest) == 1 {
		rest = []string{"/bin/sh", "-c", rest[0]}
	}
	lab, err := openLab()
	if err != nil {
		return err
	}
	status, err := lab.Exec(ctx, n, rest, os.Stdout, os.Stderr)
	if err == nil && status != 0 {
		return exitError(status)
	}
	return err
}

// execInNamespace runs a command on the router between the subnets, or on the
// peer: they are namespaces of this host.
func execInNamespace(ctx context.Context, role string, command []string) error {
	if len(command) == 0 {
		return fmt.Errorf("%w: lab exec --node %s 'COMMAND LINE'", errUsage, role)
	}
	if len(command) == 1 {
		command = []string{"/bin/sh", "-c", command[0]}
	}
	lab, err := openLab()
	if err != nil {
		return err
	}
	err = lab.ExecInNamespace(ctx, role, command, os.Stdout, os.Stderr)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exitError(exit.ExitCode())
	}
	return err
}

func status(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("lab status", flag.ContinueOnError), args); err != nil {
		return err
	}
	lab, err := openLab()
	if err != nil {
		return err
	}
	return lab.Status(ctx, os.Stdout)
}

func logs(args []string) error {
	flags := flag.NewFlagSet("lab logs", flag.ContinueOnError)
	if err := parse(flags, args); err != nil {
		return err
	}
	lab, err := openLab()
	if err != nil {
		return err
	}
	return lab.Log(flags.Arg(0), os.Stdout)
}
