//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// agentStatus is the part of kube-router status -o json that is judged.
type agentStatus struct {
	Node        string
	Wrong       []string
	Controllers []struct {
		Name, State string
		Objects     []struct {
			Kind                string
			Desired, Programmed int
		}
	}
	Peers []struct{ Node, State string }
}

// onAgent runs a command in the agent's pod of a node.
func onAgent(t *testing.T, node int, command string) string {
	t.Helper()
	pod := must(t, "kubectl -n kube-system get pod -l k8s-app=kube-router --field-selector spec.nodeName=node%d -o jsonpath='{.items[0].metadata.name}'", node)
	return must(t, "kubectl -n kube-system exec %s -c kube-router -- %s", pod, command)
}

// On a cluster that is well, every agent says so, and what it has.
func TestStatus(t *testing.T) {
	for node := 1; node <= 3; node++ {
		eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, "all is well") },
			"kubectl -n kube-system exec $(kubectl -n kube-system get pod -l k8s-app=kube-router --field-selector spec.nodeName=node%d -o jsonpath='{.items[0].metadata.name}') -c kube-router -- kube-router status", node)
		for line := range strings.Lines(onAgent(t, node, "kube-router status")) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 {
				t.Errorf("node%d: %d columns: %s", node, n, line)
			}
		}
		var s agentStatus
		if err := json.Unmarshal([]byte(onAgent(t, node, "kube-router status -o json")), &s); err != nil {
			t.Fatal(err)
		}
		if s.Node != fmt.Sprintf("node%d", node) || len(s.Wrong) > 0 || len(s.Peers) != 2 {
			t.Errorf("node%d: %+v", node, s)
		}
		for _, c := range s.Controllers {
			if c.State != "running" {
				t.Errorf("node%d: controller %s is %s", node, c.Name, c.State)
			}
			for _, o := range c.Objects {
				if o.Programmed != o.Desired {
					t.Errorf("node%d: %d of %d %s", node, o.Programmed, o.Desired, o.Kind)
				}
			}
		}
	}
}

// What is listed is what the kernel has.
func TestShow(t *testing.T) {
	var services struct {
		Items []struct{ Namespace, Name, State string }
	}
	if err := json.Unmarshal([]byte(onAgent(t, 1, "kube-router show services -o json")), &services); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(services.Items, func(s struct{ Namespace, Name, State string }) bool {
		return s.Namespace == "default" && s.Name == "kubernetes" && s.State == "programmed"
	}) {
		t.Errorf("the Service of the API server is not there: %+v", services)
	}
	routes := onAgent(t, 1, "kube-router show routes")
	for line := range strings.Lines(onNode(t, 1, "ip route show proto 17")) {
		if prefix := strings.Fields(line)[0]; !strings.Contains(routes, prefix) {
			t.Errorf("%s is not in\n%s", prefix, routes)
		}
	}
	sets := onAgent(t, 1, "kube-router show sets")
	for line := range strings.Lines(onNode(t, 1, "ipset list -name")) {
		if name := strings.TrimSpace(line); strings.HasPrefix(strings.ToLower(name), "kube-router-") && !strings.Contains(sets, name[:min(len(name), 20)]) {
			t.Errorf("%s is not in\n%s", name, sets)
		}
	}
}

// The socket is root's.
func TestSocketIsForRoot(t *testing.T) {
	if got := onAgent(t, 1, "stat -c '%a %F %u' /run/kube-router/kube-router.sock"); got != "600 socket 0" {
		t.Errorf("got %s", got)
	}
}
