// Command lab runs a real Kubernetes cluster on one machine, and single
// programs in guests with a kernel of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/kube-router/kube-router/lab/internal/bench"
	"github.com/kube-router/kube-router/lab/internal/guest"
)

const usage = `usage: lab COMMAND

  guest-exec [--timeout 10m] [--memory 1G] BINARY [ARGS...]
        run a program in a User-Mode Linux guest, for go test -exec
  up [--nodes 3] [--router kube-router|none] [--memory 2G] [--subnets 2]
     [--peer] [--families ipv4|ipv6|dual]
        build what is missing and start a cluster; .lab/kubeconfig is its key.
        --subnets 2 puts every other node into a second subnet, with a router
        between; --peer starts a BGP router outside of the cluster;
        --families gives nodes, Pods and Services addresses of IPv6 alone,
        or of both families
  down
        end the cluster and remove it
  exec --node N 'COMMAND LINE'  or  exec nodeN -- COMMAND [ARGS]
        run a command on a node, as root; or on the router, or the peer
  status
        what runs; exit status 0 only if the whole cluster does
  logs COMPONENT
        etcd, kube-apiserver, ..., node1 (its console), node1/kubelet, node1/containerd
  demo [--nodes 3] [--memory 2G]
        the hands-on exercise on a cluster of its own; KEEP=1 keeps it
  conformance [--focus REGEXP] [--skip REGEXP] [--expect 25] [--parallel 2] [--name NAME]
        Kubernetes' own tests of Services and pod networking, on the cluster
        that is up, or on one of its own with --nodes 3 --families ipv4; KEEP=1
        keeps that and the namespaces of specs that fail
  bench services [--sizes 600,1000,5000] [--proxies ours,ipvs,iptables] [--wait 10m]
        Service proxies side by side, each in a cluster of its own, and judged
  build [--with e2e.test,kube-proxy]
        build Kubernetes, etcd, CoreDNS and the CNI plugins into .lab/bin
  modules
        build the kernel modules that Debian's guest kernel lacks (FoU tunnels);
        guests use them from then on
  image
        build kube-router's image and the test images into .lab/images
  release [--out dist] [--arch amd64,arm64,arm] [--version V]
        programs and images for each architecture, with SBOMs and checksums;
        SOURCE_DATE_EPOCH is the only date in them
`

// exitError is a command's exit status that needs no message.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// errUsage marks a mistake in the command line.
var errUsage = errors.New("usage")

func init() {
	// A guest is told to die with the thread that started it: keep the main
	// goroutine on the main thread, which lives as long as the process.
	runtime.LockOSThread()
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	err := run(ctx, os.Args[1:])
	var status exitError
	switch {
	case err == nil:
	case errors.As(err, &status):
		os.Exit(int(status))
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%w: lab needs a command\n%s", errUsage, usage)
	}
	name, rest := args[0], args[1:]
	switch name {
	case "guest-exec":
		return guestExec(ctx, rest)
	case "demo":
		return runDemo(ctx, rest)
	case "conformance":
		return runConformance(ctx, rest)
	case "bench":
		return runBench(ctx, rest)
	case bench.NodeCommand:
		return measureOnNode(ctx, rest)
	case "up":
		return up(ctx, rest)
	case "down":
		return down(rest)
	case "exec":
		return execOnNode(ctx, rest)
	case "status":
		return status(ctx, rest)
	case "logs":
		return logs(rest)
	case "build":
		return buildPrograms(ctx, rest)
	case "modules":
		return buildModules(ctx, rest)
	case "image":
		return buildImages(ctx, rest)
	case "release":
		return buildRelease(ctx, rest)
	case guest.InitCommand, guest.AgentCommand:
		return insideGuest(name, rest)
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	return fmt.Errorf("%w: unknown command %q\n%s", errUsage, name, usage)
}

func insideGuest(name string, args []string) error {
	// User-Mode Linux appends a root= of its own to what init gets.
	if len(args) == 0 {
		return fmt.Errorf("%w: lab %s CHANNEL is run by the guest's kernel, not by hand", errUsage, name)
	}
	if name == guest.InitCommand {
		return guest.RunInit(args[0])
	}
	return guest.RunAgent(args[0])
}
