//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
)

// outsider is a machine beside the cluster: a network namespace of the host,
// on the nodes' network.
type outsider struct {
	t    *testing.T
	name string
	ip   string
}

// outside makes one. It goes when the test ends. As a router it heeds no
// redirects: a node that does not serve an address yet sends its own way out for
// one, and a host would go by that for five minutes (RFC 1812, 5.2.7.2).
func outside(t *testing.T) *outsider {
	t.Helper()
	node := nodeIP(t, 1)
	bridge := must(t, "ip -o route get %s | sed 's/.* dev \\([^ ]*\\).*/\\1/'", node)
	id := crc32.ChecksumIEEE([]byte(t.Name() + bridge))
	o := &outsider{t: t, name: fmt.Sprintf("e2e-%08x", id), ip: node[:strings.LastIndex(node, ".")+1] + fmt.Sprint(200+id%50)}
	link := fmt.Sprintf("e2e%08x", id)
	t.Cleanup(func() { _, _ = sh(context.Background(), "ip netns delete "+o.name+"; ip link delete "+link) })
	must(t, `ip netns add %[1]s && ip link add %[2]s type veth peer name eth0 netns %[1]s &&
		ip link set %[2]s master %[3]s up && ip -n %[1]s link set lo up && ip -n %[1]s link set eth0 up &&
		ip -n %[1]s address add %[4]s/24 dev eth0 &&
		ip netns exec %[1]s sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.eth0.accept_redirects=0`, o.name, link, bridge, o.ip)
	return o
}

// sends makes a node the way to an address, as a router would.
func (o *outsider) sends(vip string, node int) {
	o.t.Helper()
	must(o.t, "ip -n %s route replace %s via %s", o.name, vip, nodeIP(o.t, node))
}

// command is one that runs there.
func (o *outsider) command(format string, args ...any) string {
	return "ip netns exec " + o.name + " sh -c " + quote(fmt.Sprintf(format, args...))
}

// get is a command that fetches a page and fails after 3 seconds.
func (o *outsider) get(url string) string { return o.command("curl -sS --max-time 3 %s", url) }

// nodeIP is the InternalIP of a node, by its number.
func nodeIP(t *testing.T, node int) string {
	t.Helper()
	return must(t, `kubectl get node node%d -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'`, node)
}

// ingress gives a Service of type LoadBalancer its address, as a cloud would.
func ingress(t *testing.T, namespace, ip string) {
	t.Helper()
	must(t, `kubectl -n %s patch service server --subresource=status --type=merge -p '{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}'`, namespace, ip)
}
