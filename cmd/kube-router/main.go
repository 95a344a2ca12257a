// Command kube-router gives a node of a Kubernetes cluster its network: routes
// by BGP, Services by IPVS, NetworkPolicies by iptables and ipset.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/kube-router/kube-router/internal/app"
	"github.com/kube-router/kube-router/internal/cli"
	"github.com/kube-router/kube-router/internal/config"
)

// version is stamped by the linker.
var version = "unknown"

// The exit statuses: 1 for what went wrong while running, 2 for a command
// line that cannot be run.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) }

func run(args []string, env func(string) string, stdout, stderr io.Writer) int {
	if cli.Is(args) {
		return look(args, stdout, stderr)
	}
	cfg, err := config.Parse(args, env)
	switch {
	case errors.Is(err, config.ErrHelp):
		fmt.Fprint(stdout, config.Usage(cli.Usage()))
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "kube-router: %v\n", err)
		return exitUsage
	case cfg.ShowBGPPeers:
		return look([]string{"show", "peers", "--output=wide", "--socket=" + cfg.Socket}, stdout, stderr)
	case cfg.ShowVersion:
		fmt.Fprintf(stdout, "kube-router %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if cfg.CleanUp {
		err = app.CleanUp(ctx, cfg, stdout)
	} else {
		err = app.Run(ctx, cfg, version, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "kube-router: %v\n", err)
		return exitFailure
	}
	return 0
}

// look runs a command that asks the running agent.
func look(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return cli.Run(ctx, args, stdout, stderr)
}
