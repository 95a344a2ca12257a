// Package cluster runs a Kubernetes cluster on this machine: the control
// plane as processes of the host, each node as a User-Mode Linux guest.
package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kube-router/kube-router/lab/internal/guest"
	"github.com/kube-router/kube-router/lab/internal/network"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// Addresses inside the cluster.
const (
	domain        = "cluster.local"
	podRange      = "10.244.0.0/16"
	podRange6     = "fd00:10:244::/56"
	serviceRange  = "10.96.0.0/16"
	serviceRange6 = "fd00:10:96::/112"
	apiServiceIP  = "10.96.0.1"
	apiServiceIP6 = "fd00:10:96::1"
	dnsServiceIP  = "10.96.0.10"
	dnsServiceIP6 = "fd00:10:96::a"
	apiPort       = 6443
)

// Options select what Up starts.
type Options struct {
	// Nodes is the number of nodes.
	Nodes int `json:"nodes"`
	// Router is RouterProduct or RouterNone.
	Router string `json:"router"`
	// NeedProduct makes a failure to build the product's image an error also
	// without a router. The nodes have the image whenever it can be built.
	NeedProduct bool `json:"-"`
	// Subnets is 1, or 2 for two of them with a router between.
	Subnets int `json:"subnets,omitempty"`
	// Peer starts a BGP router outside of the cluster.
	Peer bool `json:"peer,omitempty"`
	// Families are those of nodes, Pods and Services.
	Families network.Families `json:"families,omitempty"`
	// Memory of each node, as guest.Machine has it.
	Memory string `json:"memory"`
}

// Routers that Up can install.
const (
	RouterProduct = "kube-router"
	RouterNone    = "none"
)

const maxNodes = 50

// Validate reports what is wrong with the options, in terms of lab up's flags.
func (o Options) Validate() error {
	if o.Nodes < 1 || o.Nodes > maxNodes {
		return fmt.Errorf("--nodes %d: it must be 1 to %d", o.Nodes, maxNodes)
	}
	if o.Subnets < 0 || o.Subnets > 2 {
		return fmt.Errorf("--subnets %d: it must be 1 or 2", o.Subnets)
	}
	switch o.Families {
	case "", network.IPv4, network.IPv6, network.DualStack:
	default:
		return fmt.Errorf("--families %q: it must be ipv4, ipv6 or dual", o.Families)
	}
	if o.Families == network.IPv6 || o.Families == network.DualStack {
		if o.Subnets > 1 || o.Peer {
			return fmt.Errorf("--families %s: it goes with neither --subnets 2 nor --peer", o.Families)
		}
	}
	if o.Router != RouterProduct && o.Router != RouterNone {
		return fmt.Errorf("--router %q: it must be %s or %s", o.Router, RouterProduct, RouterNone)
	}
	return nil
}

// ranges are those of Pods and of Services, as the components' flags take them.
func (o Options) ranges() (pods, services string) {
	return strings.Join(o.Families.Pick(podRange, podRange6), ","), strings.Join(o.Families.Pick(serviceRange, serviceRange6), ",")
}

// firstFamily is a configuration that was written for IPv4 in the first family
// of the cluster: the address of DNS, and that at which kubelets listen.
func (o Options) firstFamily(configuration string) string {
	if o.Families != network.IPv6 {
		return configuration
	}
	return strings.NewReplacer(dnsServiceIP, dnsServiceIP6, "address: 0.0.0.0", `address: "::"`).Replace(configuration)
}

// state is what a running lab needs to be found again. It is written before
// anything is started, so that a crash leaves nothing unknown.
type state struct {
	Options Options         `json:"options"`
	Network network.Network `json:"network"`
	// Complete is set once Up has succeeded.
	Complete bool `json:"complete"`
}

// Lab is the cluster of one workspace, running or not.
type Lab struct {
	ws workspace.Workspace
}

// New returns the workspace's lab.
func New(ws workspace.Workspace) *Lab { return &Lab{ws: ws} }

// run is a path below the directory that exists only while the lab does.
func (l *Lab) run(parts ...string) string {
	return l.ws.Path(append([]string{"run"}, parts...)...)
}

// Kubeconfig is where the administrator's client configuration is.
func (l *Lab) Kubeconfig() string { return l.ws.Path("kubeconfig") }

func (l *Lab) channel(node int) string { return l.run(NodeName(node)) }

// NodeName is the name of a node, counted from 1.
func NodeName(node int) string { return fmt.Sprintf("node%d", node) }

func (l *Lab) readState() (*state, error) {
	data, err := os.ReadFile(l.run("state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", l.run("state.json"), err)
	}
	return s, nil
}

func (l *Lab) writeState(s *state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeFile(l.run("state.json"), data)
}

// lock keeps two commands from starting and ending the lab at once.
func (l *Lab) lock() (release func(), err error) {
	if err := os.MkdirAll(l.ws.Path(), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(l.ws.Path(), "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.New("another lab up or lab down is at work here: wait for it, or interrupt it")
	}
	return func() { f.Close() }, nil
}

// running lists what of the lab is running, and what is not.
func (l *Lab) running(s *state) (up, down []string) {
	for _, c := range l.components(0, nil) {
		if len(c.processes()) > 0 {
			up = append(up, c.name)
		} else {
			down = append(down, c.name)
		}
	}
	for i := 1; i <= s.Options.Nodes; i++ {
		if _, alive := guest.Leader(l.channel(i)); alive {
			up = append(up, NodeName(i))
		} else {
			down = append(down, NodeName(i))
		}
	}
	return up, down
}
