// Package config turns the command line into one validated Config. It is the
// only place that knows the names of flags and of environment variables.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kube-router/kube-router/internal/inet"
)

// ErrHelp is what Parse returns where the command line asks for the help text.
var ErrHelp = errors.New("help requested")

// The environment variables that Parse reads.
const (
	envNodeName = "NODE_NAME"
	envPodName  = "POD_NAME"
	envPodSpace = "POD_NAMESPACE"
	envCNIFile  = "KUBE_ROUTER_CNI_CONF_FILE"
)

// defaultCNIFile sorts early in the directory, of which container runtimes
// take the first file.
const defaultCNIFile = "/etc/cni/net.d/10-kuberouter.conflist"

// recordFile is below /run, because what it tells of lasts until the host is
// restarted.
const recordFile = "/run/kube-router/before.json"

// profilesAddress is on loopback: profiles tell what is in memory, and taking
// them costs processor time.
const profilesAddress = "127.0.0.1:6060"

// defaultNamespace is where the manifests put the agent.
const defaultNamespace = "kube-system"

// Config is what the agent is to do, complete and free of contradictions.
type Config struct {
	ShowVersion bool
	// CleanUp asks to remove everything that the agent makes on a node, in
	// place of running it.
	CleanUp bool
	// RecordFile keeps what the agent changed on the host, for clean-up.
	RecordFile string
	// ShowBGPPeers asks the agent that runs here for its BGP peers.
	ShowBGPPeers bool
	// Verbosity above 0 asks for debug log lines.
	Verbosity int

	RunRouter, RunServiceProxy, RunFirewall, RunLoadBalancer bool

	// Kubeconfig is empty where the agent takes the Pod's service account,
	// Master where the address of the API server is not overridden.
	Kubeconfig, Master string
	// NodeName is the name of this node's Node object.
	NodeName string
	// EnableIPv4 and EnableIPv6: at least one is set. See Families.
	EnableIPv4, EnableIPv6 bool

	// HealthAddress and MetricsAddress are "host:port" to listen on, or empty
	// where nothing listens.
	HealthAddress, MetricsAddress string
	// MetricsPath is where the metrics are at MetricsAddress.
	MetricsPath string
	// ProfilesAddress is "host:port" of Go's profiles, or empty for none.
	ProfilesAddress string
	// Socket is the file at which kube-router status asks, or empty for none.
	Socket string

	BGP          BGP
	Overlay      Overlay
	CNI          CNI
	Services     Services
	LoadBalancer LoadBalancer
	Policy       Policy

	// IPTablesSyncPeriod, IPVSSyncPeriod and RoutesSyncPeriod are how often
	// each controller reads the kernel back and repairs what drifted.
	IPTablesSyncPeriod, IPVSSyncPeriod, RoutesSyncPeriod time.Duration

	// Warnings are lines to log once: flags that were accepted without effect.
	Warnings []string
}

// CNI is the configuration of the Pods' network.
type CNI struct {
	// Enabled says that the agent writes File.
	Enabled bool
	File    string
	// PodEgress masquerades what Pods send out of the cluster, but not to the
	// networks of EgressExcluded.
	PodEgress      bool
	EgressExcluded []netip.Prefix
	// AutoMTU gives the Pods' links the MTU that the way between nodes has room
	// for. Without it nobody sets them.
	AutoMTU bool
}

// Services is the configuration of the service proxy.
type Services struct {
	// ClusterIPRanges has at most one range a family.
	ClusterIPRanges []netip.Prefix
	NodePorts       PortRange
	// RejectUnassigned answers for addresses of ClusterIPRanges that no Service
	// has. It is set where the ranges were given and not guessed.
	RejectUnassigned bool
	// ExternalIPRanges and LoadBalancerIPRanges are what external and load
	// balancer IPs must be in, unless AnyIP is set.
	ExternalIPRanges, LoadBalancerIPRanges []netip.Prefix
	AnyIP                                  bool
	// Scheduler is the IPVS scheduler of Services that do not name one.
	Scheduler     string
	HairpinMode   bool
	MasqueradeAll bool
	// DSR lets endpoints of all Services answer clients directly.
	DSR bool
	// NodePortsEverywhere serves node ports at every address of the host.
	NodePortsEverywhere bool
	// Guard keeps what is not a Service from being reached at the address of one.
	Guard bool
	// GracePeriod is how long a removed endpoint may go on with what it has
	// begun; 0 is no time at all.
	GracePeriod time.Duration
	// ExcludedCIDRs hold virtual servers of others, which are never touched.
	ExcludedCIDRs []netip.Prefix
	// TCPTimeout, TCPFinTimeout and UDPTimeout are those of IPVS's connections;
	// 0 leaves the kernel's.
	TCPTimeout, TCPFinTimeout, UDPTimeout time.Duration
}

// KnownRanges are the ClusterIPRanges, none where they are a guess: what is in a
// guessed range may be a Pod, or anybody.
func (s Services) KnownRanges() []netip.Prefix {
	if !s.RejectUnassigned {
		return nil
	}
	return s.ClusterIPRanges
}

// Policy is the configuration of the policy controller.
type Policy struct {
	NewPods NewPods
	// CutFlows ends established flows that the policies do not allow any more.
	CutFlows bool
}

// NewPods says which Pods are closed until their rules are in force.
type NewPods string

// The modes: see the flag's help.
const (
	NewPodsSelected NewPods = "selected"
	NewPodsClosed   NewPods = "closed"
	NewPodsOpen     NewPods = "open"
)

// LoadBalancer is the configuration of the controller that gives Services their
// load balancer IPs.
type LoadBalancer struct {
	// DefaultClass says that Services without a class are served as well.
	DefaultClass bool
	// SyncPeriod is how often all Services are looked at again.
	SyncPeriod time.Duration
	// Namespace is where the lease of the leader is, Identity the name of this
	// agent in it.
	Namespace, Identity string
}

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

// String is "first-last".
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// Families are the enabled address families, IPv4 first.
func (c *Config) Families() []inet.Family {
	var families []inet.Family
	if c.EnableIPv4 {
		families = append(families, inet.IPv4)
	}
	if c.EnableIPv6 {
		families = append(families, inet.IPv6)
	}
	return families
}

// Parse reads the command line, without the program's name, and the
// environment. An error is one line that names the flag, the value and what is
// allowed. ErrHelp asks to print Usage.
func Parse(args []string, env func(string) string) (Config, error) {
	var c Config
	f := define(&c)
	if err := f.set.Parse(args); err != nil {
		return Config{}, f.explain(err)
	}
	if f.help {
		return Config{}, ErrHelp
	}
	if c.ShowVersion || c.ShowBGPPeers {
		return c, nil
	}
	if f.set.NArg() > 0 {
		return Config{}, fmt.Errorf("unexpected argument %q: everything is a flag; the value of an on/off flag follows an equals sign (--run-router=false)", f.set.Arg(0))
	}
	if err := f.finish(&c, env); err != nil {
		return Config{}, err
	}
	return c, nil
}

// finish resolves what depends on several flags or on the environment, and
// refuses impossible combinations.
func (f *flags) finish(c *Config, env func(string) string) error {
	c.RecordFile = recordFile
	c.HealthAddress = listenAddress(f.healthAddr, f.healthPort)
	c.MetricsAddress = listenAddress(f.metricsAddr, f.metricsPort)
	if f.profiles {
		c.ProfilesAddress = profilesAddress
	}
	f.set.Visit(func(flag *pflag.Flag) {
		if warning := withoutEffect[flag.Name]; warning != "" {
			c.Warnings = append(c.Warnings, "--"+flag.Name+" has no effect: "+warning)
		}
	})
	c.Warnings = append(c.Warnings, f.masked...)
	f.setOverlay(c)
	c.Services.RejectUnassigned = f.set.Changed("service-cluster-ip-range")
	c.Services.AnyIP = !f.strictIPs
	if err := f.setBGP(c); err != nil {
		return err
	}
	if f.defaultDeny {
		if f.set.Changed("policy-new-pods") && c.Policy.NewPods != NewPodsClosed {
			return fmt.Errorf("--netpol-default-deny=true --policy-new-pods=%s: they contradict each other; leave one of them out", c.Policy.NewPods)
		}
		c.Policy.NewPods = NewPodsClosed
	}
	if f.graceful {
		c.Services.GracePeriod = f.gracePeriod
	}
	for _, check := range []func(*Config) error{checkControllers, checkFamilies, checkRanges, checkLoadBalancer, f.checkPorts} {
		if err := check(c); err != nil {
			return err
		}
	}
	if err := setCNIFile(c, env(envCNIFile)); err != nil {
		return err
	}
	// Clean-up asks no API server, and is for hosts that are no nodes any more.
	if err := f.setNodeName(c, env(envNodeName)); err != nil && !c.CleanUp {
		return err
	}
	c.LoadBalancer.Identity = cmp.Or(env(envPodName), c.NodeName)
	c.LoadBalancer.Namespace = cmp.Or(env(envPodSpace), defaultNamespace)
	return nil
}

// withoutEffect are the flags that are accepted for the sake of clusters that
// set them, and why they do nothing.
var withoutEffect = map[string]string{
	"injected-routes-sync-period": "a route that something removes is put back at once; --routes-sync-period is how often all are looked at",
	"disable-source-dest-check":   "turn the source/destination check of EC2 instances off where they are made",
	"cache-sync-timeout":          "the agent waits for the API server as long as it takes, and says so",
	"use-nftables-for-netpol":     "policies are in iptables' chains, which are nftables where the host's iptables is; they are not rewritten whole",
	"runtime-endpoint":            "direct server return needs nothing of the container runtime",
}

// listenAddress joins what a server listens on; port 0 turns the server off.
func listenAddress(addr string, port uint16) string {
	if port == 0 {
		return ""
	}
	return net.JoinHostPort(addr, strconv.Itoa(int(port)))
}

func checkControllers(c *Config) error {
	if !c.RunRouter && !c.RunServiceProxy && !c.RunFirewall && !c.RunLoadBalancer && !c.CleanUp {
		return errors.New("--run-router=false --run-service-proxy=false --run-firewall=false: nothing is left to run; allowed is any combination with at least one of them true")
	}
	return nil
}

func checkFamilies(c *Config) error {
	if !c.EnableIPv4 && !c.EnableIPv6 {
		return errors.New("--enable-ipv4=false --enable-ipv6=false: no address family is left; at least one must be true")
	}
	return nil
}

func checkRanges(c *Config) error {
	ranges := c.Services.ClusterIPRanges
	if len(ranges) == 0 {
		return errors.New("--service-cluster-ip-range=: there is no range; leave the flag out, or set it to one such as 10.96.0.0/12")
	}
	if len(ranges) == 2 && ranges[0].Addr().Is4() == ranges[1].Addr().Is4() {
		return fmt.Errorf("--service-cluster-ip-range=%s,%s: both are of one address family; allowed is one range of IPv4, one of IPv6, or one of each", ranges[0], ranges[1])
	}
	return nil
}

func checkLoadBalancer(c *Config) error {
	if c.RunLoadBalancer && len(c.Services.LoadBalancerIPRanges) == 0 {
		return errors.New("--run-loadbalancer=true: there are no addresses to give out; set --loadbalancer-ip-range to one or more CIDRs, such as 192.0.2.0/24")
	}
	return nil
}

func setCNIFile(c *Config, file string) error {
	c.CNI.File = defaultCNIFile
	if file == "" {
		return nil
	}
	if !filepath.IsAbs(file) {
		return fmt.Errorf("environment variable %s=%s: not an absolute path; allowed is one such as %s", envCNIFile, printable(file), defaultCNIFile)
	}
	c.CNI.File = filepath.Clean(file)
	return nil
}

// setNodeName takes the name from the flag, else from the environment, else
// from the system. A kubelet registers under the lower-case host name.
func (f *flags) setNodeName(c *Config, fromEnv string) error {
	source := "--hostname-override"
	name := f.hostnameOverride
	if name == "" {
		source, name = "environment variable "+envNodeName, fromEnv
	}
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--hostname-override: the system has no host name (%w); set the flag to the name of this node's Node object", err)
		}
		source, name = "host name", host
	}
	c.NodeName = strings.ToLower(strings.TrimSpace(name))
	if !isNodeName(c.NodeName) {
		return fmt.Errorf("%s=%s: not the name of a Node; allowed are at most 253 letters, digits, '-' and '.'; set --hostname-override to the node's name in the cluster", source, printable(name))
	}
	return nil
}

// isNodeName says whether s is a DNS subdomain (RFC 1123), as all names of
// Nodes are.
func isNodeName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return len(s) <= 253
}
