package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// kubeconfig of an API server that nobody asks.
const kubeconfig = `{"apiVersion":"v1","kind":"Config","current-context":"c",
"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}],
"users":[{"name":"u","user":{"token":"t"}}]}`

func testAgent(t *testing.T, args ...string) *agent {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"NODE_NAME": "node1"}
	cfg, err := config.Parse(append(args, "--kubeconfig="+file), func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	return newAgent(cfg, log, "test")
}

// Only the watches that the enabled controllers need are opened.
func TestWatchesFollowTheControllers(t *testing.T) {
	const none = "--run-router=false --run-service-proxy=false --run-firewall=false "
	for flags, want := range map[string]string{
		none + "--run-router":                                                    "nodes",
		none + "--run-router --advertise-external-ip":                            "nodes services endpointslices",
		none + "--run-router --peer-router-ips=1.2.3.4 --peer-router-asns=65100": "nodes services endpointslices",
		none + "--run-service-proxy":                                             "nodes services endpointslices",
		none + "--run-loadbalancer --loadbalancer-ip-range=192.0.2.0/24":         "services",
		none + "--run-firewall":                                                  "nodes pods namespaces networkpolicies",
		"":                                                                       "nodes services endpointslices pods namespaces networkpolicies",
	} {
		a := testAgent(t, strings.Fields(flags)...)
		client, err := a.openClient()
		if err != nil {
			t.Fatal(err)
		}
		a.build(drivers{}, client)
		if got := strings.Join(a.feeds.Waiting(), " "); got != want {
			t.Errorf("%q watches %q, want %q", flags, got, want)
		}
	}
}

// What is missing is waited for, and the wait ends with the agent.
func TestRetryWaitsUntilItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		a := testAgent(t)
		a.log = slog.New(slog.NewTextHandler(&said, nil))
		a.feeds.Nodes.Subscribe(func(cluster.Change[cluster.Node]) {})
		p := part{"policy", &stub{}}
		tries, words := 0, []string(nil)
		got, err := retry(t.Context(), a, "the kernel", func() (string, error) {
			words = append(words, a.waiting(p))
			if tries++; tries < 4 {
				return "", errors.New("no iptables\nnor nft")
			}
			return "open", nil
		})
		if got != "open" || err != nil || tries != 4 {
			t.Errorf("%q, %v after %d tries", got, err, tries)
		}
		// The lists that are missing as well are not the reason.
		if words[0] != "waiting for the kernel" || words[1] != "waiting for the kernel: no iptables; nor nft" {
			t.Errorf("meanwhile it says that it is %q", words)
		}
		if got := a.waiting(p); got != "waiting for the API server's list of nodes" {
			t.Errorf("then it says that it is %q", got)
		}
		if n := strings.Count(said.String(), "waiting for the kernel"); n != 1 {
			t.Errorf("said %d times what it waits for:\n%s", n, said.String())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := retry(ctx, a, "", func() (string, error) { return "", errors.New("never") }); !errors.Is(err, context.Canceled) {
			t.Errorf("the wait ended with %v", err)
		}
	})
}

// Each controller that is not ready says why, in words.
func TestWaitingInWords(t *testing.T) {
	a := testAgent(t)
	client, err := a.openClient()
	if err != nil {
		t.Fatal(err)
	}
	a.build(drivers{}, client)
	p := part{"routes", &stub{work: []reconcile.Work{{What: "node", Err: errors.New("no pod CIDR yet")}, {What: "peers"}}}}
	if got := a.waiting(p); !strings.Contains(got, "the API server's list of nodes") {
		t.Errorf("before the lists: %q", got)
	}
	a.feeds = cluster.NewFeeds()
	if got := a.waiting(p); got != "node: no pod CIDR yet" {
		t.Errorf("after the lists: %q", got)
	}
}

// What a Service has is told apart by our own proxy, where it guards; else these
// ranges are open to Pods.
func TestUntold(t *testing.T) {
	const ranges = " --service-cluster-ip-range=10.20.0.0/16 --service-external-ip-range=203.0.113.0/24 --loadbalancer-ip-range=198.51.100.0/28,2001:db8::/64"
	for args, open := range map[string]bool{
		"--run-service-proxy=true":                         false,
		"--run-service-proxy=true --ipvs-permit-all=false": true,
		"--run-service-proxy=false":                        true,
	} {
		clusterIPs, others, nodePorts := untold(testAgent(t, strings.Fields(args+ranges)...).cfg)
		want := "[] [] {0 0}"
		if open {
			want = "[10.20.0.0/16] [203.0.113.0/24 198.51.100.0/28 2001:db8::/64] {30000 32767}"
		}
		if got := fmt.Sprint(clusterIPs, " ", others, " ", nodePorts); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}
