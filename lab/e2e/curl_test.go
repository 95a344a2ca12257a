//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// refused wants the connection to be answered with a refusal: curl's exit code
// 7, where an address serves nothing.
func refused(t *testing.T, namespace, pod, url string) {
	t.Helper()
	fails(t, curlRefused, url, func(command string) string { return in(namespace, pod, command) })
}

// silentOnNode wants no answer to a node: curl's exit code 28, where a policy
// leaves it no endpoint and a load balancer should try another node.
func silentOnNode(t *testing.T, node int, url string) {
	t.Helper()
	fails(t, curlSilent, url, func(command string) string {
		return fmt.Sprintf("%s exec --node %d %s", lab, node, quote(command))
	})
}

func curlRefused(out string) bool {
	return strings.Contains(out, "curl: (7)") && !strings.Contains(out, "curl: (28)")
}

func curlSilent(out string) bool {
	return strings.Contains(out, "curl: (28)") && !strings.Contains(out, "curl: (7)")
}

// event waits for an Event about an object that says something.
func event(t *testing.T, namespace, object, reason, words string) {
	t.Helper()
	eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, words) },
		"kubectl -n %s get events --field-selector involvedObject.name=%s,reason=%s -o jsonpath='{.items[*].message}'", namespace, object, reason)
}
