//go:build manifests

package e2e

import (
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a cluster of an earlier release has.
//
//go:embed testdata/former-release.yaml
var formerRelease string

// commands are those of a page of the manual, from the line that begins so to
// the end of its block. The tests run what users are told to.
func commands(t *testing.T, page, begin string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	for line := range strings.Lines(string(text)) {
		command, inBlock := strings.CutPrefix(line, "    ")
		switch {
		case block.Len() > 0 && !inBlock:
			return strings.TrimSpace(block.String())
		case block.Len() > 0 || inBlock && strings.HasPrefix(command, begin):
			block.WriteString(command)
		}
	}
	t.Fatalf("%s has no command %q, with text after it", page, begin)
	return ""
}

// replaceFormer takes a cluster with the manifest of an earlier release to this
// one's agent, and on to the point where this one's manifest can be applied: as
// the manual says. No agent of that release is there, only its manifest.
func replaceFormer(t *testing.T) {
	server := must(t, "kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}'")
	must(t, "kubectl apply -f - <<'EOF'\n%s\nEOF", strings.ReplaceAll(formerRelease, "https://SERVER:6443", server))

	must(t, "%s", commands(t, "migrate.md", "kubectl patch clusterrole"))
	for _, right := range []string{"create events", "patch services --subresource=status"} {
		eventually(t, succeeds, "kubectl auth can-i %s --as=system:serviceaccount:kube-system:kube-router", right)
	}
	must(t, "%s", commands(t, "migrate.md", "kubectl -n kube-system patch daemonset"))
	// A Pod is Ready only once the startup probe got its answer.
	must(t, "kubectl -n kube-system rollout status daemonset/kube-router --timeout=%s", patience)
	for n := 1; n <= nodes; n++ {
		ip := must(t, `kubectl get node node%d -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'`, n)
		eventually(t, succeeds, "$LAB exec --node %d %s", n, quote("curl -sSf http://"+ip+":20244/readyz"))
	}

	ours, err := filepath.Abs("../../deploy/kube-router-all-features.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := sh(t.Context(), "kubectl apply --dry-run=server -f "+ours); err == nil || !strings.Contains(out, "field is immutable") {
		t.Errorf("our manifest over that of the earlier release: %v\n%s", err, out)
	}
	const pods = "kubectl -n kube-system get pods -l k8s-app=kube-router -o name"
	before := must(t, pods)
	orphan, _, _ := strings.Cut(commands(t, "migrate.md", "kubectl -n kube-system delete daemonset kube-router --cascade=orphan"), "\n")
	must(t, "%s", orphan)
	if after := must(t, pods); after != before || strings.Count(after, "\n") != nodes-1 {
		t.Errorf("without their DaemonSet the pods are\n%s\nand were\n%s", after, before)
	}
}

// adopted wants the pods that the earlier DaemonSet left to have been replaced:
// only a DaemonSet that adopted them does that.
func adopted(t *testing.T) {
	if left := must(t, "kubectl -n kube-system get pods -l k8s-app=kube-router,tier=node -o name"); left != "" {
		t.Errorf("the earlier DaemonSet's pods are still there: %s", left)
	}
}
