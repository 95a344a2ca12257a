package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kube-router/kube-router/lab/internal/guest"
	"github.com/kube-router/kube-router/lab/internal/network"
	"github.com/kube-router/kube-router/lab/internal/process"
)

// Down ends the lab and removes all it left on this machine but what was
// built. It is complete also after a crash, and does nothing without a lab.
func (l *Lab) Down() (was bool, err error) {
	release, err := l.lock()
	if err != nil {
		return false, err
	}
	defer release()
	if _, err := os.Stat(l.run()); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return true, l.remove()
}

func (l *Lab) remove() error {
	s, err := l.readState()
	if err != nil {
		s = nil // damaged: what can be found without it is removed
	}
	// Nothing is asked to end: its data go with it, and kube-apiserver
	// lingers for a minute while a watch is open.
	for _, c := range l.components(0, nil) {
		process.KillWithArgument(c.mark)
	}
	process.KillWithArgument(l.peerConfig())
	channels, _ := filepath.Glob(l.run("node*"))
	for _, channel := range channels {
		guest.Kill(channel)
	}
	if err := l.awaitEnd(channels); err != nil {
		return err
	}
	if s != nil && s.Network != (network.Network{}) {
		if err := s.Network.Delete(); err != nil {
			return err
		}
	}
	return errors.Join(os.RemoveAll(l.run()), os.RemoveAll(l.Kubeconfig()))
}

// awaitEnd waits until nothing of the lab runs, so that its ports and links
// are free.
func (l *Lab) awaitEnd(channels []string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := process.WithArgument(l.peerConfig())
		for _, c := range l.components(0, nil) {
			left = append(left, c.processes()...)
		}
		for _, channel := range channels {
			left = append(left, guest.Processes(channel)...)
		}
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end after a kill: look at them with ps", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// keepLogs saves the logs of a failed start from remove.
func (l *Lab) keepLogs() string {
	kept := l.ws.Path("failed")
	if err := os.RemoveAll(kept); err != nil {
		return ""
	}
	logs, _ := filepath.Glob(l.run("logs", "*.log"))
	nodes, _ := filepath.Glob(l.run("node*", "*.log"))
	if len(logs)+len(nodes) == 0 || os.MkdirAll(kept, 0o755) != nil {
		return ""
	}
	for _, path := range logs {
		_ = os.Rename(path, filepath.Join(kept, filepath.Base(path)))
	}
	for _, path := range nodes {
		_ = os.Rename(path, filepath.Join(kept, filepath.Base(filepath.Dir(path))+"-"+filepath.Base(path)))
	}
	return kept
}

// Exec runs a command on a node, as root, and returns its exit status.
func (l *Lab) Exec(ctx context.Context, node int, command []string, stdout, stderr io.Writer) (int, error) {
	s, err := l.readState()
	if err != nil {
		return 0, err
	}
	if s == nil {
		return 0, errors.New("no lab is up: lab up starts one")
	}
	if node < 1 || node > s.Options.Nodes {
		return 0, fmt.Errorf("there is no node %d: the lab has node1 to %s", node, NodeName(s.Options.Nodes))
	}
	channel := l.channel(node)
	leader, running := guest.Leader(channel)
	if !running {
		return 0, fmt.Errorf("%s is not running; the end of its console:\n%s", NodeName(node), tailOf(guest.ConsolePath(channel), 15))
	}
	alive := func() error {
		if syscall.Kill(leader, 0) != nil {
			return fmt.Errorf("%s ended while it ran the command", NodeName(node))
		}
		return nil
	}
	req := guest.Request{Command: command, Dir: "/root", Env: []string{"PATH=" + guest.Path, "HOME=/root", "TERM=dumb"}}
	return guest.Run(ctx, channel, req, stdout, stderr, alive)
}
