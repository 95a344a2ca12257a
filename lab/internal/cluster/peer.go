package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"github.com/kube-router/kube-router/lab/internal/network"
)

// peerASN is the autonomous system of the router outside of the cluster, and
// clusterASN that of the nodes unless they are told otherwise.
const (
	peerASN    = 64600
	clusterASN = 64512
)

// peerConfig is the configuration of the peer. Its path is the argument by which
// its process is known.
func (l *Lab) peerConfig() string { return l.run("peer", "bird.conf") }

// launchPeer starts the router outside of the cluster. It takes sessions from
// every node, learns what they tell, and tells them of the network behind it.
func (l *Lab) launchPeer(w *watch, n network.Network) error {
	if err := n.CreatePeer(); err != nil {
		return err
	}
	if err := writeFile(l.peerConfig(), []byte(birdConfig(n))); err != nil {
		return err
	}
	path := l.run("logs", "peer.log")
	if err := os.MkdirAll(l.run("logs"), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("ip", "netns", "exec", n.Namespace(network.PeerRole),
		"bird", "-f", "-c", l.peerConfig(), "-s", l.run("peer", "bird.ctl"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the peer: %w", err)
	}
	w.process("peer", cmd, path)
	return nil
}

func birdConfig(n network.Network) string {
	return fmt.Sprintf(`router id %[1]s;
log stderr all;
protocol device {}
protocol direct { ipv4; }
protocol kernel { ipv4 { import all; export where source = RTS_BGP; }; learn; merge paths on; }
protocol bgp nodes {
	local %[1]s as %[2]d;
	neighbor range 192.168.0.0/16 as %[3]d;
	dynamic name "node";
	multihop 4;
	ipv4 { import all; export where net = %[4]s; next hop self; };
}
`, n.Peer(), peerASN, clusterASN, n.PeerNetwork())
}

// ExecInNamespace runs a command on the router between the subnets, or on the
// peer, as root.
func (l *Lab) ExecInNamespace(ctx context.Context, role string, command []string, stdout, stderr io.Writer) error {
	s, err := l.readState()
	if err != nil {
		return err
	}
	switch {
	case s == nil:
		return errors.New("no lab is up: lab up starts one")
	case role == network.RouterRole && s.Network.Subnets < 2:
		return errors.New("the lab has no router: lab up --subnets 2 makes one")
	case role == network.PeerRole && !s.Options.Peer:
		return errors.New("the lab has no peer: lab up --peer makes one")
	}
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", s.Network.Namespace(role)}, command...)...)
	cmd.Env = append(os.Environ(), "BIRD_SOCKET="+l.run("peer", "bird.ctl"))
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd.Run()
}
