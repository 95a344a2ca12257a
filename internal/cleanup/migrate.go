package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/admin"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kubeproxy"
)

// Errors of Migrate, for which nothing was changed.
var (
	// ErrKubeProxyRuns means that kube-proxy runs on this node.
	ErrKubeProxyRuns = errors.New("kube-proxy runs on this node: remove it first, 'kubectl -n kube-system delete ds kube-proxy' (k3s: --disable-kube-proxy), and run this again")
	// ErrNoAgent means that nobody would serve Services.
	ErrNoAgent  = errors.New("no kube-router serves Services on this node: start it first, so that Services go on while kube-proxy's rules go; or add --without-agent, and new connections to Services fail until it runs")
	errProxyOff = errors.New("kube-router runs on this node with --run-service-proxy=false and leaves Services to kube-proxy: run it with its service proxy first, so that Services go on while kube-proxy's rules go; or add --without-agent")
)

// Migrate removes what a kube-proxy left on this node that does not run any
// more, and writes a line for each thing. Without apply it only tells what it
// would remove. Its error says that something is left.
func Migrate(ctx context.Context, o Options, apply, withoutAgent bool, out io.Writer) error {
	held, err := claimMigration()
	if err != nil {
		return err
	}
	defer held.Close()
	if apply {
		err = o.awaitKubeProxyEnd(ctx, out)
	} else {
		err = o.kubeProxyRuns(ctx)
	}
	if err != nil {
		return err
	}
	if !withoutAgent {
		if err := o.agentServes(ctx); err != nil {
			return err
		}
	}
	r := &report{out: out, dry: !apply}
	n := open(ctx, o, r)
	defer n.close()
	if err := n.leaveKubeProxy(ctx, o, r); err != nil {
		return err
	}
	if r.unsolved+r.changed+r.stays == 0 {
		fmt.Fprintln(out, "kube-proxy does not run here and has left nothing")
		return nil
	}
	err = r.result()
	if err == nil && r.dry && r.changed > 0 {
		fmt.Fprintln(out, "nothing was changed: run it again with --apply to remove this")
	}
	return err
}

// kubeProxyRuns is ErrKubeProxyRuns with what tells so, or nil.
func (o Options) kubeProxyRuns(ctx context.Context) error {
	if signs := o.KubeProxy.Running(ctx); len(signs) > 0 {
		return fmt.Errorf("%w (%s)", ErrKubeProxyRuns, strings.Join(signs, ", "))
	}
	return nil
}

// 'kubectl delete' of a DaemonSet returns before its Pods have ended.
const (
	endWait = 30 * time.Second
	endLook = time.Second
)

// awaitKubeProxyEnd is ErrKubeProxyRuns where one still runs after endWait.
func (o Options) awaitKubeProxyEnd(ctx context.Context, out io.Writer) error {
	err := o.kubeProxyRuns(ctx)
	if err == nil {
		return nil
	}
	fmt.Fprintf(out, "waiting up to %s for kube-proxy to end (%s)\n", endWait, strings.Join(o.KubeProxy.Running(ctx), ", "))
	for deadline := time.Now().Add(endWait); err != nil && time.Now().Before(deadline); err = o.kubeProxyRuns(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted: run it again to go on (%w)", context.Cause(ctx))
		case <-time.After(endLook):
		}
	}
	return err
}

// agentServes asks the agent whether it has programmed all Services. One that
// cannot be asked, as from another container, is taken to have.
func (o Options) agentServes(ctx context.Context) error {
	status, _, err := admin.NewClient(o.Socket).Status(ctx)
	if err != nil {
		held, err := claim(presence)
		if err != nil {
			return nil // it runs
		}
		held.Close()
		return ErrNoAgent
	}
	i := slices.IndexFunc(status.Controllers, func(c admin.Controller) bool { return c.Name == "services" })
	switch {
	case i < 0 || status.Controllers[i].State == admin.Off:
		return errProxyOff
	case status.Controllers[i].State != admin.Running:
		return fmt.Errorf("kube-router has not programmed all Services yet: %s; 'kube-router status' tells when it has", status.Controllers[i].Reason)
	}
	return nil
}

// leaveKubeProxy removes what kube-proxy left, once it is sure that none runs.
func (n *Node) leaveKubeProxy(ctx context.Context, o Options, r *report) error {
	if !r.dry && !o.KubeProxy.SeesProcesses() {
		back, err := n.probe(ctx, r)
		switch {
		case err != nil:
			return err
		case back:
			return fmt.Errorf("%w (it has made its chain %s again)", ErrKubeProxyRuns, kubeproxy.Canary)
		}
	}
	n.removeKubeProxy(ctx, r)
	return nil
}

// kube-proxy looks for its canary once in the time of --iptables-sync-period,
// which is 30 seconds by default.
const (
	canaryWait = 40 * time.Second
	canaryLook = time.Second
)

// probe removes kube-proxy's canary, where there is one, and waits whether it is
// made again. That is how a kube-proxy shows whose process cannot be seen, and
// whose ports are others than by default. It does it no harm: it writes all its
// rules again.
func (n *Node) probe(ctx context.Context, r *report) (back bool, err error) {
	removed, err := n.removeCanaries(ctx, false)
	if err != nil || !removed {
		return false, err
	}
	fmt.Fprintf(r.out, "waiting for %s whether a kube-proxy makes its chain %s again (the host's processes cannot be seen here)\n", canaryWait, kubeproxy.Canary)
	for deadline := time.Now().Add(canaryWait); time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("interrupted: run it again to go on (%w)", context.Cause(ctx))
		case <-time.After(canaryLook):
		}
		if back, err := n.removeCanaries(ctx, true); err != nil || back {
			return back, err
		}
	}
	return false, nil
}

// removeCanaries says whether there was one.
func (n *Node) removeCanaries(ctx context.Context, dry bool) (found bool, err error) {
	canary := iptables.Removal{Owns: func(chain string) bool { return chain == kubeproxy.Canary }, Dry: dry}
	for _, rules := range n.Rules {
		for _, table := range iptables.Tables() {
			removed, err := canary.Run(ctx, rules.Tables, table)
			if err != nil {
				return found, fmt.Errorf("looking for chain %s: %w", kubeproxy.Canary, err)
			}
			found = found || len(removed) > 0
		}
	}
	return found, nil
}
