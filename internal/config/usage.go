package config

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kube-router/kube-router/internal/admin"
)

// columns is the width of the help text, that of a terminal.
const columns = 80

// Usage is the help text, laid out as a manual page: the commands, which are
// described by themselves, and the flags in groups, each with its default.
func Usage(commands string) string {
	f := define(new(Config))
	var b strings.Builder
	b.WriteString("NAME\n    kube-router - the network of a Kubernetes node\n\n")
	b.WriteString("SYNOPSIS\n    kube-router [flags]\n    kube-router status|show|migrate ...\n\n")
	b.WriteString("DESCRIPTION\n")
	b.WriteString(wrap("Gives the pods of this node their network: routes to other nodes by BGP, Services by IPVS, NetworkPolicies by iptables and ipset. It runs until SIGTERM or SIGINT; what it programmed stays in the kernel. It needs root with the capability NET_ADMIN, NET_RAW for iptables, and NET_BIND_SERVICE for the ports of BGP and BFD.", 4) + "\n")
	b.WriteString(wrap("A flag that is on or off may stand without a value; --flag=false turns it off. Of a flag that is given twice the last one counts, but lists add up.", 4))
	b.WriteString("\n" + commands)
	for _, s := range f.sections {
		fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(s.title))
		for _, flag := range s.flags {
			b.WriteString(describe(flag))
		}
	}
	for _, s := range appendix() {
		fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(s.title))
		for _, e := range s.items {
			b.WriteString("    " + e.name + "\n" + wrap(e.text, 8))
		}
	}
	return b.String()
}

// appendix is what a manual page has behind the flags.
func appendix() []appended {
	return []appended{
		{"Environment", []item{
			{envNodeName, "Name of this node's Node object, where --hostname-override does not say it. The manifests set it from the Pod."},
			{envPodName + ", " + envPodSpace, "Who holds the lease of the loadbalancer controller, and in which namespace that is. Without them: the node's name, and " + defaultNamespace + "."},
			{envCNIFile, "The file of the CNI configuration. Without it: " + defaultCNIFile + "."},
			{"KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT", "Address of the API server, as Kubernetes tells every Pod: used where neither a flag nor the kubelet's configuration says it."},
			{"NO_COLOR, TERM=dumb", "No colours in what the commands print."},
		}},
		{"Files", []item{
			{admin.DefaultSocket, "The socket of the commands; for root alone."},
			{recordFile, "What was on the node before, for --cleanup-config."},
			{"/etc/kubernetes/kubelet.conf", "The kubelet's configuration, of k3s /var/lib/rancher/k3s/agent/kubelet.kubeconfig: only the address of the API server is read from it."},
			{defaultCNIFile, "The CNI configuration that is written."},
			{"/run/xtables.lock", "The lock that all programs share that use iptables."},
			{"/lib/modules", "Modules of the kernel are loaded from here where they are missing."},
		}},
		{"Exit status", []item{
			{"0", "After a signal; after --cleanup-config when nothing is left; of a command when all is well."},
			{"1", "It could not run, or something could not be removed; of a command: something is wrong, or no agent answers, or kube-router migrate must not or cannot remove something."},
			{"2", "The command line cannot be run."},
		}},
		{"Examples", []item{
			{"kube-router --run-router=false --run-firewall=false", "Services only, in place of kube-proxy, beside another CNI plugin."},
			{"kube-router --nodes-full-mesh=false --bgp-graceful-restart", "For clusters of more than 50 nodes, of which two are route reflectors."},
			{"kube-router --peer-router-ips=192.0.2.1 --peer-router-asns=65100", "Tell a router outside of the cluster of the pods."},
			{"kube-router --run-loadbalancer --loadbalancer-ip-range=192.0.2.0/24", "Addresses for Services of type LoadBalancer."},
			{"kube-router show services -o json | jq '.items[] | select(.state==\"failed\")'", "The Services that this node could not program."},
		}},
	}
}

// appended is a part of the help text that is no list of flags.
type appended struct {
	title string
	items []item
}

type item struct{ name, text string }

// describe is a flag's entry: a line with the name and the default, and the
// explanation below it.
func describe(flag *pflag.Flag) string {
	var b strings.Builder
	b.WriteString("    ")
	if flag.Shorthand != "" {
		fmt.Fprintf(&b, "-%s, ", flag.Shorthand)
	}
	fmt.Fprintf(&b, "--%s", flag.Name)
	switch {
	case flag.NoOptDefVal == "":
		fmt.Fprintf(&b, "=%s", flag.Value.Type())
	case flag.Shorthand == "":
		fmt.Fprintf(&b, "[=%s]", flag.Value.Type())
	}
	if flag.DefValue != "" && flag.Shorthand == "" {
		fmt.Fprintf(&b, "  (default %s)", flag.DefValue)
	}
	return b.String() + "\n" + wrap(flag.Usage, 8)
}

// wrap breaks text between words, each line indented.
func wrap(text string, indent int) string {
	var b strings.Builder
	width := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case width == 0:
			b.WriteString(strings.Repeat(" ", indent))
			width = indent
		case width+1+len(word) > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			width = indent
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String() + "\n"
}
