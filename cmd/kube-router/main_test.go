package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestExitStatuses(t *testing.T) {
	env := func(name string) string { return map[string]string{"NODE_NAME": "node1"}[name] }
	for _, c := range []struct {
		name   string
		args   []string
		status int
		stdout string // contained
		stderr string // contained
	}{
		{"help", []string{"--help"}, 0, "--run-router", ""},
		{"version", []string{"--version"}, 0, "kube-router unknown (go", ""},
		{"help lists the commands", []string{"--help"}, 0, "kube-router show peers|routes|services|policies|sets [-o json|wide]", ""},
		{"no agent", []string{"status", "--socket=/nonexistent/agent.sock"}, 1, "", "no kube-router runs here"},
		{"help of a command", []string{"show", "--help"}, 0, "kube-router status", ""},
		{"nothing to show", []string{"show"}, 2, "", "peers, routes, services"},
		{"peers without an agent", []string{"--show-bgp-peers", "--socket=/nonexistent/agent.sock"}, 1, "", "no kube-router runs here"},
		{"unknown flag", []string{"--run-ruter"}, 2, "", "--run-router"},
		{"bad value", []string{"--cluster-asn=70000000"}, 2, "", "--cluster-asn"},
		{"value that is no bool", []string{"--run-router=perhaps"}, 2, "", "--run-router"},
		{"nothing to run", []string{"--run-router=false", "--run-firewall=false", "--run-service-proxy=false"}, 2, "", "--run-"},
		{"positional argument", []string{"start"}, 2, "", `"start"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if got := run(c.args, env, &stdout, &stderr); got != c.status {
				t.Errorf("exit status %d, want %d", got, c.status)
			}
			if !strings.Contains(stdout.String(), c.stdout) || (c.stdout == "") != (stdout.Len() == 0) {
				t.Errorf("stdout %q, want %q in it", stdout.String(), c.stdout)
			}
			if !strings.Contains(stderr.String(), c.stderr) || (c.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("stderr %q, want %q in it", stderr.String(), c.stderr)
			}
			if c.status == exitUsage && strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("an error is one line, not %q", stderr.String())
			}
		})
	}
}
