package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/build"
	"github.com/kube-router/kube-router/lab/internal/debian"
	"github.com/kube-router/kube-router/lab/internal/guest"
	"github.com/kube-router/kube-router/lab/internal/image"
	"github.com/kube-router/kube-router/lab/internal/network"
	"github.com/kube-router/kube-router/lab/internal/progress"
)

//go:embed coredns.yaml
var coreDNS string

// ErrUp says that there is a lab already.
var ErrUp = errors.New("a lab is already up")

// startTimeout bounds the time from the first process to the end; building
// before it may take as long as it takes.
const startTimeout = 5 * time.Minute

// Up builds what is missing, starts the cluster and waits until it can be
// used. A start that fails or is interrupted is taken down again.
func (l *Lab) Up(ctx context.Context, log *progress.Log, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	release, err := l.lock()
	if err != nil {
		return err
	}
	defer release()
	if err := l.clear(log); err != nil {
		return err
	}
	store, err := l.build(ctx, log, o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("the cluster was not ready within %s", startTimeout))
	defer cancel()
	err = l.start(ctx, log, o, store)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
			err = cause
		}
		if kept := l.keepLogs(); kept != "" {
			err = fmt.Errorf("%w\nall logs of this start are in %s", err, kept)
		}
		return errors.Join(err, l.remove())
	}
	return nil
}

// clear removes the remains of a lab that is dead, and refuses to touch one
// that lives.
func (l *Lab) clear(log *progress.Log) error {
	s, err := l.readState()
	if err != nil || s == nil {
		return err
	}
	if up, down := l.running(s); s.Complete && len(down) == 0 {
		return fmt.Errorf("%w: %d nodes, router %s (%d processes); lab down ends it", ErrUp, s.Options.Nodes, s.Options.Router, len(up))
	}
	log.Printf("removing what an earlier lab left behind")
	return l.remove()
}

func (l *Lab) build(ctx context.Context, log *progress.Log, o Options) (store string, err error) {
	packages := append(append([]string{}, debian.Cluster...), debian.Image...)
	if o.Peer {
		packages = append(packages, "bird2")
	}
	if err := debian.Ensure(ctx, log, packages); err != nil {
		return "", err
	}
	if err := build.Run(ctx, l.ws, log, nil); err != nil {
		return "", err
	}
	archives, err := image.ClusterArchives(ctx, l.ws, log)
	if err != nil {
		return "", err
	}
	product, err := image.ProductArchive(ctx, l.ws, log)
	switch {
	case err == nil:
		archives = append(archives, product)
	case o.Router == RouterProduct || o.NeedProduct || ctx.Err() != nil:
		return "", err
	default:
		log.Printf("the nodes will not have kube-router's image: %v", err)
	}
	err = log.Step("unpacking images", func() error {
		store, err = image.Store(ctx, l.ws, archives)
		return err
	})
	return store, err
}

// start is everything that must be undone by remove.
func (l *Lab) start(ctx context.Context, log *progress.Log, o Options, store string) error {
	n, err := network.Pick(o.Subnets)
	if err != nil {
		return err
	}
	n.Families = o.Families
	s := &state{Options: o, Network: n}
	if err := l.writeState(s); err != nil {
		return err
	}
	w := newWatch(ctx)
	defer w.stop()
	if err := log.Step(fmt.Sprintf("starting the control plane and %d nodes", o.Nodes), func() error {
		return l.launchAll(w, s, store)
	}); err != nil {
		return err
	}
	api, err := newAPI(l.Kubeconfig())
	if err != nil {
		return err
	}
	if err := log.Step("waiting for the API server", func() error { return w.until(api.ready) }); err != nil {
		return err
	}
	if err := l.launchRest(w, s); err != nil {
		return err
	}
	if err := log.Step("applying manifests", func() error { return l.apply(w.ctx, o) }); err != nil {
		return l.explain(w, err)
	}
	if err := l.await(log, w, api, s); err != nil {
		return l.explain(w, err)
	}
	s.Complete = true
	return l.writeState(s)
}

// launchAll starts what waits for nothing: etcd, the API server, and the
// nodes, which boot and start containerd meanwhile.
func (l *Lab) launchAll(w *watch, s *state, store string) error {
	n := s.Network
	if err := n.Create(s.Options.Nodes); err != nil {
		return err
	}
	if s.Options.Peer {
		if err := l.launchPeer(w, n); err != nil {
			return err
		}
	}
	ca, err := writePKI(l.run("pki"), n.Host().String(), s.Options.Families.Pick(apiServiceIP, apiServiceIP6)[0])
	if err != nil {
		return err
	}
	if err := l.writeKubeconfigs(ca, n); err != nil {
		return err
	}
	if err := os.MkdirAll(l.run("logs"), 0o755); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	for _, c := range l.components(port, s)[:2] {
		cmd, err := l.launch(c)
		if err != nil {
			return err
		}
		w.process(c.name, cmd, c.log)
	}
	for i := 1; i <= s.Options.Nodes; i++ {
		if err := l.prepareNode(ca, n, i, store); err != nil {
			return err
		}
		cmd, err := guest.Command(guest.Machine{Channel: l.channel(i), Memory: s.Options.Memory, Tap: n.Tap(i), Number: i})
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		w.guest(NodeName(i), cmd, l.channel(i))
	}
	return nil
}

func (l *Lab) writeKubeconfigs(ca *authority, n network.Network) error {
	server := "https://" + netip.AddrPortFrom(n.Host(), apiPort).String()
	for path, user := range map[string][2]string{
		l.Kubeconfig():                        {"admin", "system:masters"},
		l.run("kube-controller-manager.conf"): {"system:kube-controller-manager", ""},
		l.run("kube-scheduler.conf"):          {"system:kube-scheduler", ""},
	} {
		data, _, err := ca.kubeconfig(server, user[0], user[1])
		if err != nil {
			return err
		}
		if err := writeFile(path, data); err != nil {
			return err
		}
	}
	return nil
}

// launchRest starts what needs the API server.
func (l *Lab) launchRest(w *watch, s *state) error {
	for i := 1; i <= s.Options.Nodes; i++ {
		if err := writeFile(filepath.Join(l.channel(i), apiReady), nil); err != nil {
			return err
		}
	}
	for _, c := range l.components(0, s)[2:] {
		cmd, err := l.launch(c)
		if err != nil {
			return err
		}
		w.process(c.name, cmd, c.log)
	}
	return nil
}

// apply hands in the manifests before there are nodes, so that nodes find
// their work when they come.
func (l *Lab) apply(ctx context.Context, o Options) error {
	files := []string{l.run("coredns.yaml")}
	if err := writeFile(files[0], []byte(o.firstFamily(coreDNS))); err != nil {
		return err
	}
	if o.Router == RouterProduct {
		manifest, err := l.manifest(o)
		if err != nil {
			return err
		}
		files = append(files, manifest)
	}
	args := []string{"--kubeconfig", l.Kubeconfig(), "apply"}
	for _, f := range files {
		args = append(args, "-f", f)
	}
	cmd := exec.CommandContext(ctx, l.ws.Bin("kubectl"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply -f %s: %w\n%s", strings.Join(files, " -f "), err, out)
	}
	return nil
}

// manifest is the one that users apply, or that one with the flags that the
// documentation names for a cluster with IPv6.
func (l *Lab) manifest(o Options) (path string, err error) {
	shipped := l.ws.Source("deploy", "kube-router-all-features.yaml")
	if o.Families == "" || o.Families == network.IPv4 {
		return shipped, nil
	}
	data, err := os.ReadFile(shipped)
	if err != nil {
		return "", err
	}
	_, services := o.ranges()
	before, after, found := strings.Cut(string(data), "        args:\n")
	if !found {
		return "", fmt.Errorf("%s: its container has no args", shipped)
	}
	flags := fmt.Sprintf("        args:\n        - --enable-ipv6\n        - --service-cluster-ip-range=%s\n", services)
	if o.Families == network.IPv6 {
		flags += "        - --enable-ipv4=false\n        - --router-id=generate\n"
	}
	path = l.run("kube-router.yaml")
	return path, writeFile(path, []byte(before+flags+after))
}
