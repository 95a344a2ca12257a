//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// Pods that a policy selects are closed from their first packet on: each tries
// to get out from the moment that it starts, again and again, and none may
// succeed. A Pod that no policy selects proves that there is something to reach.
func TestNewPodsAreNeverOpen(t *testing.T) {
	ns := namespace(t)
	url := "http://" + serve(t, ns, "server", 2) + ":8080/hostname"
	apply(t, ns, strings.Replace(fmt.Sprintf(denyAll, "Egress"), "podSelector: {}", "podSelector: {matchLabels: {app: eager}}", 1))
	const eager = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[2]s}}
spec:
  nodeName: node1
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: agnhost
    image: %[3]s
    command: [sh, -c, 'exec 2>&1; for i in $(seq 12); do curl -sS -o /dev/null --max-time 0.2 %[4]s && echo REACHED; done; echo tried']
`
	var pods []string
	for i := range 4 {
		pods = append(pods, fmt.Sprint("eager-", i))
		apply(t, ns, fmt.Sprintf(eager, pods[i], "eager", agnhost, url))
	}
	apply(t, ns, fmt.Sprintf(eager, "free", "free", agnhost, url))
	for _, pod := range append(pods, "free") {
		out := eventually(t, func(out string, err error) bool { return err == nil && strings.HasSuffix(out, "tried") },
			"kubectl -n %s logs %s", ns, pod)
		if reached := strings.Contains(out, "REACHED"); reached != (pod == "free") {
			t.Errorf("%s: reached the server: %v\n%s", pod, reached, out)
		}
	}
}

// Policies stay in force while no agent runs, and what somebody deletes of
// them is repaired.
func TestPoliciesStayInForce(t *testing.T) {
	ns := namespace(t)
	url := "http://" + serve(t, ns, "server", 1) + ":8080/hostname"
	client(t, ns, "near", 1)
	client(t, ns, "far", 2)
	apply(t, ns, fmt.Sprintf(denyAll, "Ingress"))
	both := []string{"near", "far"}
	each(both, []string{url}, func(pod, url string) { blocked(t, ns, pod, url) })

	t.Run("while no agent runs", func(t *testing.T) {
		const patch = `kubectl -n kube-system patch daemonset/kube-router --type=json -p '[{"op":%q,"path":"/spec/template/spec/nodeSelector"%s}]'`
		must(t, patch, "add", `,"value":{"nowhere":"true"}`)
		t.Cleanup(func() {
			// The test's own context has ended by now.
			back := fmt.Sprintf(patch, "remove", "") + " && kubectl -n kube-system rollout status daemonset/kube-router --timeout=300s"
			if out, err := sh(context.Background(), back); err != nil {
				t.Errorf("the agents do not come back: %s", out)
			}
		})
		eventually(t, func(out string, err error) bool { return err == nil && out == "" },
			"kubectl -n kube-system get pod -l k8s-app=kube-router -o name")
		each(both, []string{url}, func(pod, url string) { blocked(t, ns, pod, url) })
	})
	t.Run("after their chains were deleted", func(t *testing.T) {
		onNode(t, 1, "iptables-legacy -F KUBE-ROUTER-FORWARD && iptables-legacy -F KUBE-ROUTER-OUTPUT")
		each(both, []string{url}, func(pod, url string) { blocked(t, ns, pod, url) })
	})
}

// What reaches a Pod through direct server return, and what it sends to itself
// through its Service, is judged as everything else.
func TestPolicyOfDirectReturnAndHairpin(t *testing.T) {
	ns := namespace(t)
	serve(t, ns, "server", 2)
	client(t, ns, "good", 1)
	client(t, ns, "bad", 1)
	apply(t, ns, strings.Replace(fmt.Sprintf(service, "ClusterIP"),
		"{name: server}", "{name: server, annotations: {kube-router.io/service.dsr: tunnel}}", 1))
	url := "http://" + clusterIP(t, ns) + "/hostname"
	each([]string{"good", "bad", "server"}, []string{url}, func(pod, url string) { connects(t, ns, pod, url) })
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {name: good}}}]
`)
	connects(t, ns, "good", url)
	each([]string{"bad", "server"}, []string{url}, func(pod, url string) { blocked(t, ns, pod, url) })

	// The client's node alone judges egress, and must see the endpoint.
	must(t, "kubectl -n %s delete networkpolicy allow", ns)
	each([]string{"bad", "server"}, []string{url}, func(pod, url string) { connects(t, ns, pod, url) })
	apply(t, ns, strings.Replace(fmt.Sprintf(denyAll, "Egress"), "podSelector: {}", "podSelector: {matchLabels: {name: bad}}", 1))
	blocked(t, ns, "bad", url)
	connects(t, ns, "good", url)
	apply(t, ns, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-server}
spec:
  podSelector: {matchLabels: {name: bad}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: server}}}]
`)
	connects(t, ns, "bad", url)
}
