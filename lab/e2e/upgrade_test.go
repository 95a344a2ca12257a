//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// onlyFrom lets the client in to what serves, and nobody else.
const onlyFrom = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-the-client}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {name: client}}}]
`

// The agents are restarted, upgraded (here: get another flag) and rolled back,
// node after node as the manifest has it, while a Pod sends a thousand packets a
// second to another node, and requests to a Service. None may be lost, and what
// a policy denies must be denied all the while.
func TestUpgradeUnderLoad(t *testing.T) {
	ns := namespace(t)
	server := serve(t, ns, "server", 2)
	from, stranger := client(t, ns, "client", 1), client(t, ns, "stranger", 3)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	apply(t, ns, onlyFrom)
	vip := clusterIP(t, ns)
	connects(t, ns, "client", "http://"+vip+"/hostname")
	blocked(t, ns, "stranger", "http://"+server+":8080/hostname")

	packets := startFlow(t, 1, from, server)
	requests := startRequests(t, "requests", 1, from, vip+":80", "0.05")
	denied := startRequests(t, "denied", 3, stranger, server+":8080", "0.05")

	const daemonset = "kubectl -n kube-system %s daemonset/kube-router "
	rolled := func(what, command string) {
		t.Helper()
		before := agentOf(t, 1)
		must(t, "%s", command)
		must(t, daemonset+"--timeout=180s", "rollout status")
		if agentOf(t, 1) == before {
			t.Errorf("%s: the agent of node 1 is the same as before", what)
		}
	}
	args := func() string {
		return must(t, daemonset+"-o jsonpath='{.spec.template.spec.containers[0].args}'", "get")
	}
	before := args()
	t.Cleanup(func() {
		// Where the test ended between the two.
		if out, err := sh(context.Background(), fmt.Sprintf(daemonset+"-o jsonpath='{.spec.template.spec.containers[0].args}'", "get")); err == nil && out != before {
			if _, err := agents(&before); err != nil {
				t.Errorf("the flag of the test stays: %v", err)
			}
		}
	})
	rolled("a restart", fmt.Sprintf(daemonset, "rollout restart"))
	rolled("an upgrade", fmt.Sprintf(daemonset+"--type=json -p %s", "patch",
		quote(`[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--metrics-port=8080"}]`)))
	if after := args(); !strings.Contains(after, "--metrics-port=8080") {
		t.Errorf("the upgrade has no new flag: %s", after)
	}
	metricsTell(t, 1) // where the client is
	rolled("a rollback", fmt.Sprintf(daemonset, "rollout undo"))
	if after := args(); after != before {
		t.Errorf("after the rollback the flags are %s, before they were %s", after, before)
	}
	packets.lostNone(t)
	requests.all(t, true)
	denied.all(t, false)
}
