package cluster

import (
	_ "embed"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/guest"
	"github.com/kube-router/kube-router/lab/internal/image"
	"github.com/kube-router/kube-router/lab/internal/network"
)

//go:embed node-setup.sh
var nodeSetup string

//go:embed containerd.toml
var containerdConfig string

//go:embed kubelet.yaml
var kubeletConfig string

// apiReady is the file in a node's channel that lets its kubelet start: one
// that starts before the API server waits longer and longer between attempts.
const apiReady = "api-ready"

// prepareNode writes a node's files and specification into its channel. The
// files are laid out as kubeadm lays them out.
func (l *Lab) prepareNode(ca *authority, n network.Network, i int, store string) error {
	name, ip := NodeName(i), n.Node(i).String()
	var addresses, ips []string
	for _, p := range n.NodePrefixes(i) {
		addresses = append(addresses, network.AddressOn(p, "vec0"))
		ips = append(ips, p.Addr().String())
	}
	server := "https://" + netip.AddrPortFrom(n.Host(), apiPort).String()
	conf, _, err := ca.kubeconfig(server, "system:node:"+name, "system:nodes")
	if err != nil {
		return err
	}
	serving, err := ca.server(name, ip)
	if err != nil {
		return err
	}
	loopback, err := os.ReadFile(l.ws.Bin("loopback"))
	if err != nil {
		return err
	}
	root := filepath.Join(l.channel(i), "root")
	files := map[string][]byte{
		"etc/kubernetes/kubelet.conf":    conf,
		"etc/kubernetes/pki/ca.crt":      ca.pem.cert,
		"var/lib/kubelet/config.yaml":    []byte(Options{Families: n.Families}.firstFamily(kubeletConfig)),
		"var/lib/kubelet/pki/server.crt": serving.cert,
		"var/lib/kubelet/pki/server.key": serving.key,
		"etc/containerd/config.toml":     fmt.Appendf(nil, containerdConfig, image.Pause),
		"etc/machine-id":                 fmt.Appendf(nil, "%032x\n", n.ID<<8+i),
		"etc/hosts":                      fmt.Appendf(nil, "127.0.0.1 localhost\n::1 localhost\n%s %s\n", ip, name),
		"etc/resolv.conf":                nil, // a node has no way out of the lab
		"opt/cni/bin/loopback":           loopback,
	}
	for path, data := range files {
		if err := writeFile(filepath.Join(root, path), data); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "opt/cni/bin/loopback"), 0o755); err != nil {
		return err
	}
	env := fmt.Sprintf("CHANNEL='%s' STORE='%s' ADDRESSES='%s' ROUTES='route add %s'\n",
		l.channel(i), store, strings.Join(addresses, "\n"), strings.Join(n.Ways(i), "\nroute add "))
	return guest.Prepare(l.channel(i), guest.Spec{
		Hostname: name,
		ReadOnly: []string{store},
		Tmpfs:    []string{"/var/lib/kubelet", "/var/lib/containerd", "/etc/cni", "/opt/cni", "/var/log"},
		Setup:    env + nodeSetup,
		Services: []guest.Service{
			{Name: "containerd", Command: []string{"containerd"}},
			// kubelet ends where containerd does not answer yet.
			{Name: "kubelet", After: apiReady, Command: []string{
				"sh", "-c", `until ctr version >/dev/null 2>&1; do sleep 0.2; done; exec "$0" "$@"`,
				l.ws.Bin("kubelet"), "--kubeconfig=/etc/kubernetes/kubelet.conf", "--config=/var/lib/kubelet/config.yaml",
				"--hostname-override=" + name, "--node-ip=" + strings.Join(ips, ","),
			}},
		},
	})
}
