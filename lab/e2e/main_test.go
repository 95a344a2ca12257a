//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

var lab = os.Getenv("LAB")

// flags are what the tests need of the agents beyond the manifest that users
// apply: addresses to give out and to accept (RFC 5737), repairs soon and
// counted, and what is off by default.
var flags = []string{
	"--run-loadbalancer", "--loadbalancer-ip-range=203.0.113.8/30,203.0.113.200/32", "--service-external-ip-range=198.51.100.0/24", "--ipvs-graceful-termination", "--ipvs-graceful-period=20s", "--nodeport-bindon-all-ip", "--ipvs-sync-period=5s", "--iptables-sync-period=5s",
	"--metrics-port=" + metricsPort,
}

// metricsPort is where agents count what they do, at loopback.
const metricsPort = "9102"

// TestMain runs the agents with these flags, and as they were afterwards.
func TestMain(m *testing.M) {
	if out, err := sh(context.Background(), "kubectl apply -f ../../deploy/kube-router-loadbalancer.yaml"); err != nil {
		fmt.Fprintln(os.Stderr, "the agents do not get the rights that the tests' flags need:", out)
		os.Exit(1)
	}
	before, err := agents(nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the agents do not get the tests' flags:", err)
		os.Exit(1)
	}
	code := m.Run()
	if _, err := agents(&before); err != nil {
		fmt.Fprintln(os.Stderr, "the tests' flags stay with the agents:", err)
		code = 1
	}
	os.Exit(code)
}

// agents adds the flags to the DaemonSet's, or sets the given ones, and waits
// until all agents have them: at once, since nobody uses the network then. It
// returns what was there before, as JSON.
func agents(args *string) (before string, err error) {
	ctx := context.Background()
	const daemonset = "kubectl -n kube-system %s daemonset/kube-router "
	before, err = sh(ctx, fmt.Sprintf(daemonset+"-o jsonpath='{.spec.template.spec.containers[0].args}'", "get"))
	if err != nil {
		return "", fmt.Errorf("%s: %w", before, err)
	}
	want := strings.TrimSuffix(before, "]") + `,"` + strings.Join(flags, `","`) + `"]`
	if args != nil {
		want = *args
	}
	const atOnce, slowly = `{"op":"replace","path":"/spec/updateStrategy/rollingUpdate/maxUnavailable","value":"100%"}`,
		`{"op":"replace","path":"/spec/updateStrategy/rollingUpdate/maxUnavailable","value":1}`
	patch := "[" + atOnce + `,{"op":"replace","path":"/spec/template/spec/containers/0/args","value":` + want + "}]"
	out, err := sh(ctx, fmt.Sprintf(daemonset+"--type=json -p %s && "+daemonset+"--timeout=300s && "+daemonset+"--type=json -p %s",
		"patch", quote(patch), "rollout status", "patch", quote("["+slowly+"]")))
	if err != nil {
		return before, fmt.Errorf("%s: %w", out, err)
	}
	return before, nil
}

// namespace makes a namespace for one test.
func namespace(t *testing.T) string {
	t.Helper()
	name := "e2e-" + strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	create(t, name)
	return name
}
