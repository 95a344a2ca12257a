package config

import (
	"net/netip"
	"time"

	"github.com/spf13/pflag"

	"github.com/kube-router/kube-router/internal/admin"
)

// flags are the command line: the flag set, the sections of its help text, and
// the flags that do not go into the Config as they are.
type flags struct {
	set      *pflag.FlagSet
	sections []section

	help                    bool
	hostnameOverride        string
	healthAddr, metricsAddr string
	healthPort, metricsPort uint16
	bgp                     bgpFlags
	adminAddr               string
	adminPort               uint16
	routerID                routerID
	ignoredInjectedPeriod   time.Duration
	ignoredSourceCheck      bool
	ignoredCacheSyncTimeout time.Duration
	ignoredRuntimeEndpoint  string
	ignoredNFTables         bool
	profiles                bool
	strictIPs, graceful     bool
	defaultDeny             bool
	gracePeriod             time.Duration
	masked                  []string // what to say of CIDRs whose last bits were dropped
}

// section is a part of the help text.
type section struct {
	title string
	flags []*pflag.Flag
}

// define declares every flag. The help text shows them in this order.
func define(c *Config) *flags {
	f := &flags{set: pflag.NewFlagSet("kube-router", pflag.ContinueOnError)}
	f.set.SortFlags = false
	f.set.Usage = func() {}
	f.defineControllers(c)
	f.defineCluster(c)
	f.defineRouting(c)
	f.defineOverlay(c)
	f.defineRouters(c)
	f.defineAdvertisements(c)
	f.defineServices(c)
	f.definePolicies(c)
	f.definePods(c)
	f.defineSync(c)
	f.defineServers(c)
	f.defineOther(c)
	return f
}

func (f *flags) section(title string) { f.sections = append(f.sections, section{title: title}) }

// add declares a flag of the section that was begun last.
func add[T any](f *flags, p *T, name string, initial T, k kind[T], usage string) *pflag.Flag {
	return addShort(f, p, name, "", initial, k, usage)
}

// addShort declares a flag that has a one-letter name too.
func addShort[T any](f *flags, p *T, name, letter string, initial T, k kind[T], usage string) *pflag.Flag {
	*p = initial
	return f.declare(&value[T]{p: p, kind: k}, name, letter, usage)
}

// addBool declares a flag that may stand without a value and then is true.
func addBool(f *flags, p *bool, name string, initial bool, usage string) {
	add(f, p, name, initial, onOff(), usage).NoOptDefVal = "true"
}

func (f *flags) defineControllers(c *Config) {
	f.section("Controllers")
	addBool(f, &c.RunRouter, "run-router", true,
		"Run the routes controller: advertise this node's pods by BGP, install learned routes, write the CNI configuration.")
	addBool(f, &c.RunServiceProxy, "run-service-proxy", true,
		"Run the services controller: IPVS virtual servers for Services, in place of kube-proxy.")
	addBool(f, &c.RunFirewall, "run-firewall", true,
		"Run the policy controller: enforce NetworkPolicies with iptables and ipset.")
	addBool(f, &c.RunLoadBalancer, "run-loadbalancer", false,
		"Run the loadbalancer controller: give Services of type LoadBalancer addresses of --loadbalancer-ip-range.")
}

func (f *flags) defineCluster(c *Config) {
	f.section("Cluster")
	add(f, &c.Kubeconfig, "kubeconfig", "", text("file"),
		"Kubeconfig with which to reach the API server. Empty: the Pod's service account.")
	add(f, &c.Master, "master", "", serverURL(),
		"URL of the API server. It overrides the one in the kubeconfig and the Service address that Pods are given.")
	add(f, &f.hostnameOverride, "hostname-override", "", text("name"),
		"Name of this node's Node object. Empty: the environment variable NODE_NAME, else the host name.")
	add(f, &f.ignoredCacheSyncTimeout, "cache-sync-timeout", time.Minute, period(0),
		"Accepted, without effect: the agent waits for the API server as long as it takes.")
	addBool(f, &c.EnableIPv4, "enable-ipv4", true, "Serve IPv4.")
	addBool(f, &c.EnableIPv6, "enable-ipv6", false, "Serve IPv6.")
}

func (f *flags) defineServices(c *Config) {
	f.section("Services")
	f.addPrefixes(&c.Services.ClusterIPRanges, "service-cluster-ip-range", []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}, 2,
		"The API server's range of cluster IPs: a CIDR, or one of IPv4 and one of IPv6 with a comma between.")
	add(f, &c.Services.NodePorts, "service-node-port-range", PortRange{30000, 32767}, portRange(),
		"The API server's range of node ports.")
	add(f, &c.Services.Scheduler, "service-proxy-scheduling-algorithm", "rr", scheduler(),
		"IPVS scheduler of Services that do not choose one themselves: rr, wrr, lc, wlc, sh, dh, sed, nq or mh.")
	addBool(f, &c.Services.HairpinMode, "hairpin-mode", false,
		"Let a pod reach itself through its own Service.")
	addBool(f, &c.Services.MasqueradeAll, "masquerade-all", false,
		"Masquerade all traffic to Services, also that of pods.")
	addBool(f, &c.Services.DSR, "service-proxy-dsr", false,
		"Direct server return: endpoints on other nodes get packets through a tunnel and answer the client directly. Not for node ports. Annotation "+
			"kube-router.io/service.dsr=tunnel does it for one Service.")
	f.defineAddresses(c)
	f.defineConnections(c)
}

func (f *flags) defineAddresses(c *Config) {
	f.addPrefixes(&c.Services.ExternalIPRanges, "service-external-ip-range", nil, 32,
		"Ranges that external IPs of Services must be in.")
	f.addPrefixes(&c.Services.LoadBalancerIPRanges, "loadbalancer-ip-range", nil, 32,
		"Ranges that load balancer IPs of Services must be in; --run-loadbalancer gives them out.")
	addBool(f, &c.LoadBalancer.DefaultClass, "loadbalancer-default-class", true,
		"Give addresses also to Services that have no loadBalancerClass, or the class 'default'. Those of the class 'kube-router' always get one.")
	addBool(f, &f.strictIPs, "strict-external-ip-validation", true,
		"Refuse external and load balancer IPs outside of their ranges. Without it, whoever may write a Service may take any address (CVE-2020-8554).")
	addBool(f, &c.Services.NodePortsEverywhere, "nodeport-bindon-all-ip", false,
		"Serve node ports at every address of the host, not only at those of the Node object.")
	addBool(f, &c.Services.Guard, "ipvs-permit-all", true,
		"Keep the firewall of Services' addresses: accept what IPVS serves, refuse the rest. Without it the host's own services can be reached there.")
	f.addPrefixes(&c.Services.ExcludedCIDRs, "excluded-cidrs", nil, 32,
		"Ranges with IPVS virtual servers of others, which are never removed. No Service is served at their addresses.")
}

func (f *flags) defineConnections(c *Config) {
	addBool(f, &f.graceful, "ipvs-graceful-termination", false,
		"Let connections to an endpoint that was removed end by themselves, for as long as --ipvs-graceful-period.")
	add(f, &f.gracePeriod, "ipvs-graceful-period", 30*time.Second, period(time.Second),
		"How long that is at most.")
	const kernel = " 0: leave the kernel's."
	add(f, &c.Services.TCPTimeout, "service-tcp-timeout", 0, idleTimeout(), "Time until IPVS forgets an idle TCP connection."+kernel)
	add(f, &c.Services.TCPFinTimeout, "service-tcpfin-timeout", 0, idleTimeout(), "The same after its end was announced."+kernel)
	add(f, &c.Services.UDPTimeout, "service-udp-timeout", 0, idleTimeout(), "The same for UDP."+kernel)
	add(f, &f.ignoredRuntimeEndpoint, "runtime-endpoint", "", text("path"), "Accepted, without effect: direct server return needs no container runtime.")
}

func (f *flags) definePolicies(c *Config) {
	f.section("Policies")
	add(f, &c.Policy.NewPods, "policy-new-pods", NewPodsSelected, newPods(),
		"Which pods of this node are closed until it knows them and their rules are in force. selected: while a pod is expected that a policy selects. "+
			"closed: always, also while the agent is down, unless the host was restarted meanwhile; pods start with about a second without network. open: none.")
	addBool(f, &f.defaultDeny, "netpol-default-deny", false,
		"The same as --policy-new-pods=closed.")
	addBool(f, &f.ignoredNFTables, "use-nftables-for-netpol", false,
		"Accepted, without effect: rules are in iptables' chains, which are nftables where the host's iptables is.")
	addBool(f, &c.Policy.CutFlows, "policy-cut-flows", false,
		"End established connections that a changed policy forbids. Without it policies decide about new ones only, and what is established goes on.")
}

func (f *flags) definePods(c *Config) {
	f.section("Pods")
	addBool(f, &c.CNI.Enabled, "enable-cni", true,
		"Write the CNI configuration of this node. Its file is named by the environment variable KUBE_ROUTER_CNI_CONF_FILE, else "+defaultCNIFile+".")
	addBool(f, &c.CNI.PodEgress, "enable-pod-egress", true,
		"Masquerade what pods send out of the cluster.")
	f.addPrefixes(&c.CNI.EgressExcluded, "pod-egress-exclude-cidrs", nil, 32,
		"Networks to which pods keep their own address: they know the way back.")
	addBool(f, &c.CNI.AutoMTU, "auto-mtu", true,
		"Give the bridge and the pods the MTU of the node's link, less what tunnels of an overlay add. Without it the bridge's MTU and the one in the CNI configuration stay as they are.")
}

func (f *flags) defineSync(c *Config) {
	f.section("Repair")
	const every = "How often to read the kernel's %s back and repair what drifted. Changes of the cluster do not wait for it."
	add(f, &c.IPTablesSyncPeriod, "iptables-sync-period", 5*time.Minute, period(time.Second), sprintf(every, "iptables rules and ipsets"))
	add(f, &c.IPVSSyncPeriod, "ipvs-sync-period", 5*time.Minute, period(time.Second), sprintf(every, "IPVS virtual servers"))
	add(f, &c.RoutesSyncPeriod, "routes-sync-period", 5*time.Minute, period(time.Second), sprintf(every, "routes"))
	add(f, &f.ignoredInjectedPeriod, "injected-routes-sync-period", time.Minute, period(0),
		"Accepted, without effect: a route that something removes is put back at once.")
	add(f, &c.LoadBalancer.SyncPeriod, "loadbalancer-sync-period", time.Minute, period(time.Second),
		"How often to look at all Services of type LoadBalancer again. Changes of the cluster do not wait for it.")
}

func (f *flags) defineServers(c *Config) {
	f.section("Health and metrics")
	add(f, &f.healthPort, "health-port", 20244, portOrOff(),
		"Port of the health server: /healthz says whether the agent lives, which an outage of the API server does not change, /readyz whether it has programmed everything once; both with what each controller does or waits for. 0: none.")
	add(f, &f.healthAddr, "health-addr", "127.0.0.1", listenIP(),
		"IP address of the health server. Empty: all addresses.")
	add(f, &f.metricsPort, "metrics-port", 0, portOrOff(),
		"Port of the Prometheus metrics. 0: none.")
	add(f, &f.metricsAddr, "metrics-addr", "127.0.0.1", listenIP(),
		"IP address of the metrics. For a Prometheus on another machine set the node's own address, or leave it empty for all addresses: the metrics are open to whoever reaches them.")
	add(f, &c.MetricsPath, "metrics-path", "/metrics", urlPath(), "Path of the metrics there.")
	add(f, &c.Socket, "socket", admin.DefaultSocket, text("file"),
		"Unix socket, for root alone, at which 'kube-router status' and 'kube-router show' ask. Empty: none.")
	addBool(f, &f.profiles, "enable-pprof", false,
		"Serve Go's profiles at "+profilesAddress+", for 'go tool pprof'. Only this host can ask.")
}

func (f *flags) defineOther(c *Config) {
	f.section("Other")
	addBool(f, &c.CleanUp, "cleanup-config", false,
		"Remove everything that kube-router has made on this node, whatever controllers ran with whatever flags, and put back the sysctls that it set; print a line for each; exit. "+
			"Stop the agent on the node first: beside an agent that runs, only what a kube-proxy left is removed, unless Services are left to kube-proxy (--run-service-proxy=false). Without an agent that goes, too, where no kube-proxy runs. "+
			"Virtual servers in --excluded-cidrs stay, and no API server is asked.")
	addShort(f, &c.Verbosity, "v", "v", 0, level(), "Verbosity of the log. From 1 on: debug lines.")
	addBool(f, &c.ShowBGPPeers, "show-bgp-peers", false, "Print the BGP peers of the agent that runs on this node, as 'kube-router show peers -o wide' does, and exit.")
	addShort(f, &c.ShowVersion, "version", "V", false, onOff(), "Print the version and exit.").NoOptDefVal = "true"
	addShort(f, &f.help, "help", "h", false, onOff(), "Print this text and exit.").NoOptDefVal = "true"
}
