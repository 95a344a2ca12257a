package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// ErrDown says that no lab is up, or only part of one.
var ErrDown = errors.New("no lab is up: lab up starts one")

// Status prints what runs. It is an error if the lab is not whole.
func (l *Lab) Status(ctx context.Context, out io.Writer) error {
	s, err := l.readState()
	if err != nil {
		return err
	}
	if s == nil {
		return ErrDown
	}
	fmt.Fprintf(out, "%d nodes, router %s, API server https://%s:%d\n", s.Options.Nodes, s.Options.Router, s.Network.Host(), apiPort)
	fmt.Fprintf(out, "export KUBECONFIG=%s\n", l.Kubeconfig())
	up, down := l.running(s)
	fmt.Fprintf(out, "running: %s\n", strings.Join(up, " "))
	if len(down) > 0 {
		return fmt.Errorf("not running: %s; lab logs NAME shows why, lab down removes the rest", strings.Join(down, " "))
	}
	if !s.Complete {
		return errors.New("the lab is still starting, or its start was killed: lab down removes it")
	}
	a, err := newAPI(l.Kubeconfig())
	if err != nil {
		return err
	}
	nodes, err := a.nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		ready, why := is(n.Status.Conditions, "Ready")
		fmt.Fprintf(out, "%s ready=%t pods %s (%s)\n", n.Metadata.Name, ready, strings.Join(n.Spec.PodCIDRs, ","), why)
	}
	return nil
}

// Log copies the log of a component of the control plane, or of a node
// (node1: its console, node1/kubelet, node1/containerd).
func (l *Lab) Log(name string, out io.Writer) error {
	paths := []string{l.run("logs", name+".log"), l.run(name + ".log"), l.run(name, "console.log")}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		_, err = io.Copy(out, f)
		return err
	}
	return fmt.Errorf("there is no log %q; there are: %s", name, strings.Join(l.logNames(), " "))
}

func (l *Lab) logNames() []string {
	var names []string
	for pattern, below := range map[string]string{l.run("logs", "*.log"): l.run("logs"), l.run("node*", "*.log"): l.run()} {
		paths, _ := filepath.Glob(pattern)
		for _, p := range paths {
			rel, _ := filepath.Rel(below, p)
			names = append(names, strings.TrimSuffix(rel, ".log"))
		}
	}
	sort.Strings(names)
	return names
}
