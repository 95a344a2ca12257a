//go:build e2e || overlay || dual

package e2e

import (
	"fmt"
	"os"
	"testing"
)

// agentOf is the Pod of the agent of a node.
func agentOf(t *testing.T, node int) string {
	t.Helper()
	return must(t, "kubectl -n kube-system get pod -l k8s-app=kube-router --field-selector spec.nodeName=node%d -o jsonpath='{.items[0].metadata.name}'", node)
}

// inPodCommand is a command of the node in the network of a Pod, by its address.
func inPodCommand(node int, ip, command string) string {
	find := fmt.Sprintf("for n in $(ls /run/netns); do ip -n $n -o address | grep -q ' %s/' && exec ip netns exec $n %s; done; exit 9", ip, command)
	return fmt.Sprintf("%s exec --node %d %s", os.Getenv("LAB"), node, quote(find))
}
