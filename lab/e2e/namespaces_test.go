//go:build e2e || firewall || overlay || dual

package e2e

import (
	"context"
	"testing"
)

// create makes a namespace that goes when the test ends.
func create(t *testing.T, name string) {
	t.Helper()
	must(t, "kubectl create namespace %s", name)
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if out, err := sh(context.Background(), "kubectl delete namespace --wait=false "+name); err != nil {
			t.Logf("namespace %s stays: %s", name, out)
		}
	})
}

// each does something for each pair.
func each(pods, urls []string, do func(pod, url string)) {
	for _, pod := range pods {
		for _, url := range urls {
			do(pod, url)
		}
	}
}
