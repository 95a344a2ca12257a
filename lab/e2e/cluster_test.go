//go:build e2e || firewall || overlay || manifests || dual

// Package e2e tests the product on a cluster of the lab: real kubelets, a real
// kernel, the manifest that users apply. "make e2e" runs it.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// patience is how long a cluster may take to come to an expected state: guests
// are slow to start pods.
const patience = 90 * time.Second

// sh runs a shell command with the lab's kubectl in its path.
func sh(ctx context.Context, command string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// must runs a shell command that has to succeed.
func must(t *testing.T, format string, args ...any) string {
	t.Helper()
	command := fmt.Sprintf(format, args...)
	out, err := sh(t.Context(), command)
	if err != nil {
		t.Fatalf("$ %s\n%s\n%v", command, out, err)
	}
	return out
}

// eventually repeats a shell command until want accepts what it prints.
func eventually(t *testing.T, want func(out string, err error) bool, format string, args ...any) string {
	t.Helper()
	command := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		out, err := sh(ctx, command)
		if want(out, err) {
			return out
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %s still:\n$ %s\n%s\n%v", patience, command, out, err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func succeeds(_ string, err error) bool { return err == nil }

// onNode runs a command on a node, by its number, as root.
func onNode(t *testing.T, node int, command string) string {
	t.Helper()
	return must(t, "%s exec --node %d %s", os.Getenv("LAB"), node, quote(command))
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// apply applies YAML to a namespace.
func apply(t *testing.T, namespace, yaml string) {
	t.Helper()
	must(t, "kubectl -n %s apply -f - <<'EOF'\n%s\nEOF", namespace, yaml)
}

// serve starts an agnhost HTTP and UDP server on a node and waits for it.
func serve(t *testing.T, namespace, name string, node int) (ip string) {
	t.Helper()
	apply(t, namespace, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels: {app: server, name: %s}
spec:
  nodeName: node%d
  terminationGracePeriodSeconds: 1
  containers:
  - name: agnhost
    image: %s
    args: [netexec, --http-port=8080, --udp-port=8081]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
`, name, name, node, agnhost))
	return podIP(t, namespace, name)
}

// client starts a pod that sleeps, for commands to be run in.
func client(t *testing.T, namespace, name string, node int) (ip string) {
	t.Helper()
	apply(t, namespace, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels: {app: client, name: %s}
spec:
  nodeName: node%d
  terminationGracePeriodSeconds: 1
  containers:
  - name: agnhost
    image: %s
    args: [pause]
`, name, name, node, agnhost))
	return podIP(t, namespace, name)
}

const agnhost = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"

func podIP(t *testing.T, namespace, name string) string {
	t.Helper()
	must(t, "kubectl -n %s wait --for=condition=Ready pod/%s --timeout=%s", namespace, name, patience)
	return must(t, "kubectl -n %s get pod %s -o jsonpath='{.status.podIP}'", namespace, name)
}

// in is a command that runs in a pod.
func in(namespace, pod, command string) string {
	return fmt.Sprintf("kubectl -n %s exec %s -- sh -c %s", namespace, pod, quote(command))
}

// get is a command that fetches a page from a pod and fails after 3 seconds.
func get(namespace, pod, url string) string {
	return in(namespace, pod, "curl -sS --max-time 3 "+url)
}

// connects wants the connection to work, now or soon.
func connects(t *testing.T, namespace, pod, url string) string {
	t.Helper()
	return eventually(t, succeeds, "%s", get(namespace, pod, url))
}

// blocked wants the connection to fail, soon and then for good.
func blocked(t *testing.T, namespace, pod, url string) {
	t.Helper()
	fails(t, curlFailed, url, func(command string) string { return in(namespace, pod, command) })
}

// fails wants curl to fail in a way, which what it prints tells, soon and then
// for good. at makes a command run where the client is.
func fails(t *testing.T, way func(out string) bool, url string, at func(command string) string) {
	t.Helper()
	fetch := "curl -sS --max-time 3 " + url
	eventually(t, func(out string, err error) bool { return err != nil && way(out) }, "%s", at(fetch))
	again := at("for i in 1 2 3; do " + fetch + " && echo && echo REACHED; done")
	if out, _ := sh(t.Context(), again); strings.Contains(out, "REACHED") || !way(out) {
		t.Fatalf("%s once failed as it should, and then: %s", url, out)
	}
}

// curlFailed tells a connection that was denied from a command that could not
// even try.
func curlFailed(out string) bool {
	return strings.Contains(out, "curl: (7)") || strings.Contains(out, "curl: (28)")
}
