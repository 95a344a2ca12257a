//go:build overlay

package e2e

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

var lab = os.Getenv("LAB")

// TestOverlay sends packets between Pods of two subnets. The router between
// knows no way to Pods, and forwards nothing that they send to nodes. node1 and
// node3 share a subnet, node2 is in the other.
func TestOverlay(t *testing.T) {
	withFlags := flags(t)
	t.Run("none", func(t *testing.T) { withoutOverlay(t) })
	for _, test := range []struct {
		encap, link string
		overhead    int
		kind        string
	}{
		{"ipip", "kube-tun-ipip", 20, "subnet"},
		{"fou", "kube-tun-ipip", 32, "full"},
		{"vxlan", "kube-tun-vxlan", 50, "subnet"},
	} {
		t.Run(test.encap+" "+test.kind, func(t *testing.T) {
			withFlags(t, "--enable-overlay", "--overlay-encap="+test.encap, "--overlay-type="+test.kind)
			overlay(t, test.encap, test.link, test.overhead, test.kind == "full")
		})
	}
	t.Run("off", func(t *testing.T) {
		withFlags(t)
		for n := 1; n <= 3; n++ {
			eventually(t, func(out string, err error) bool {
				return err == nil && !strings.Contains(out, "kube-tun-") && !strings.Contains(out, "lookup 77")
			},
				"%s exec --node %d 'ip -brief link; ip rule; ip route show table all proto 17'", lab, n)
		}
	})
}

// flags is what gives the agents flags beside those that they have, until the
// test ends.
func flags(t *testing.T) func(t *testing.T, flags ...string) {
	t.Helper()
	before := must(t, "kubectl -n kube-system get daemonset/kube-router -o jsonpath='{.spec.template.spec.containers[0].args}'")
	t.Cleanup(func() {
		if out, err := sh(context.Background(), setArgs(before)); err != nil {
			t.Errorf("the flags of the test stay: %s", out)
		}
	})
	return func(t *testing.T, flags ...string) {
		t.Helper()
		args := strings.TrimSuffix(before, "]")
		for _, f := range flags {
			args += `,"` + f + `"`
		}
		must(t, "%s", setArgs(args+"]"))
	}
}

// setArgs is a command that gives the agents their arguments and waits for them.
func setArgs(args string) string {
	patch := `[{"op":"replace","path":"/spec/template/spec/containers/0/args","value":` + args + `},` +
		`{"op":"replace","path":"/spec/updateStrategy/rollingUpdate/maxUnavailable","value":"100%"}]`
	return "kubectl -n kube-system patch daemonset/kube-router --type=json -p " + quote(patch) +
		" && kubectl -n kube-system rollout status daemonset/kube-router --timeout=300s"
}

func nodeIP(t *testing.T, n int) string {
	return must(t, `kubectl get node node%d -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'`, n)
}

func podCIDR(t *testing.T, n int) string {
	return must(t, "kubectl get node node%d -o jsonpath='{.spec.podCIDR}'", n)
}

// withoutOverlay makes sure that the lab is what the tests take it for.
func withoutOverlay(t *testing.T) {
	near, far := podCIDR(t, 3)+" via "+nodeIP(t, 3), podCIDR(t, 2)
	eventually(t, func(out string, err error) bool {
		return err == nil && strings.Contains(out, near) && !strings.Contains(out, far)
	}, "%s exec --node 1 'ip route show proto 17'", lab)
	const ns = "overlay-none"
	create(t, ns)
	server := serve(t, ns, "far", 2)
	client(t, ns, "one", 1)
	blocked(t, ns, "one", "http://"+server+":8080/hostname")
	peer := must(t, "%s exec --node peer 'ip -4 -o address show dev eth0'", lab)
	address, _, _ := strings.Cut(strings.Fields(peer)[3], "/")
	for n := 1; n <= 3; n++ {
		onNode(t, n, "ping -c 1 -W 5 "+nodeIP(t, n%3+1))
		onNode(t, n, "ping -c 1 -W 5 "+address)
	}
}

func overlay(t *testing.T, encap, link string, overhead int, full bool) {
	ns := "overlay-" + encap
	create(t, ns)
	server := serve(t, ns, "far", 2)
	one := client(t, ns, "one", 1)
	client(t, ns, "three", 3)
	mtu, err := strconv.Atoi(onNode(t, 1, "cat /sys/class/net/vec0/mtu"))
	if err != nil {
		t.Fatal(err)
	}
	mtu -= overhead

	near := podCIDR(t, 3) + " via " + nodeIP(t, 3) + " dev vec0"
	if full {
		near = podCIDR(t, 3) + " via " + nodeIP(t, 3) + " dev " + link
	}
	far := podCIDR(t, 2) + " via " + nodeIP(t, 2) + " dev " + link
	eventually(t, func(out string, err error) bool {
		return err == nil && strings.Contains(out, near) && strings.Contains(out, far)
	}, "%s exec --node 1 'ip route show proto 17'", lab)

	each([]string{"one", "three"}, []string{"http://" + server + ":8080/hostname"}, func(pod, url string) { connects(t, ns, pod, url) })
	if from := connects(t, ns, "one", "http://"+server+":8080/clientip"); !strings.HasPrefix(from, one+":") {
		t.Errorf("the server sees %s, not the Pod %s", from, one)
	}
	const size = 6000 // several full segments, there and back
	url := "http://" + server + ":8080/echo?msg=" + strings.Repeat("x", size)
	if out := connects(t, ns, "one", url); len(out) != size {
		t.Errorf("of %d bytes %d came back", size, len(out))
	}
	fullPackets(t, one, server, mtu)
	// The router lets no packet of a Pod pass to a node: the tunnel has to.
	inPod(t, 1, one, "ping -c 1 -W 5 "+nodeIP(t, 2), true)
}

// fullPackets wants a packet of the MTU to pass without being cut, and the Pod
// to know that a greater one does not.
func fullPackets(t *testing.T, pod, server string, mtu int) {
	t.Helper()
	const headers = 20 + 8
	if out := inPod(t, 1, pod, "cat /sys/class/net/eth0/mtu", true); out != strconv.Itoa(mtu) {
		t.Errorf("the Pod's MTU is %s, want %d", out, mtu)
	}
	inPod(t, 1, pod, fmt.Sprintf("ping -M do -c 3 -W 5 -s %d %s", mtu-headers, server), true)
	inPod(t, 1, pod, fmt.Sprintf("ping -M do -c 1 -W 2 -s %d %s", mtu-headers+1, server), false)
}

// inPod runs a command of the node in the network of a Pod, by its address.
func inPod(t *testing.T, node int, ip, command string, works bool) string {
	t.Helper()
	out, err := sh(t.Context(), inPodCommand(node, ip, command))
	if (err == nil) != works {
		t.Errorf("in the Pod %s: %s: %v\n%s", ip, command, err, out)
	}
	return out
}
