package app

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/admin"
)

// freeAddress is one that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually asks until there is an answer.
func eventually[T any](t *testing.T, ask func() (T, error)) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		got, err := ask()
		if err == nil {
			return got
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
}

// While there is no way to the API server the agent says so to whoever asks:
// the kubelet, which would end it for silence, and kube-router status.
func TestAnswersWhileItWaits(t *testing.T) {
	a := testAgent(t, "--run-service-proxy=false")
	a.cfg.Kubeconfig = filepath.Join(t.TempDir(), "missing")
	a.cfg.HealthAddress = freeAddress(t)
	socket := filepath.Join(t.TempDir(), "agent.sock")
	a.local = admin.NewServer(socket, a.log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()

	get := func(path string) (status int, text string) {
		r := eventually(t, func() (*http.Response, error) { return http.Get("http://" + a.cfg.HealthAddress + path) })
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(body)
	}
	why := eventually(t, func() (string, error) {
		if why := a.lacking(); strings.Contains(why, "no such file") {
			return why, nil
		}
		return "", io.EOF
	})
	if !strings.HasPrefix(why, "waiting for a way to the API server: ") {
		t.Errorf("it waits for %q", why)
	}
	lines := "policy: " + why + "\nroutes: " + why + "\n"
	if status, text := get("/healthz"); status != 200 || text != "ok\n"+lines {
		t.Errorf("/healthz: %d %s", status, text)
	}
	if status, text := get("/readyz"); status != 503 || text != "not ok\n"+lines {
		t.Errorf("/readyz: %d %s", status, text)
	}
	client := admin.NewClient(socket)
	s := eventually(t, func() (admin.Status, error) { s, _, err := client.Status(t.Context()); return s, err })
	if len(s.Wrong) != 1 || s.Wrong[0] != nothingYet+why {
		t.Errorf("wrong: %q", s.Wrong)
	}
	states := map[string]string{}
	for _, c := range s.Controllers {
		states[c.Name] = c.State
	}
	if len(states) != 4 || states[routesName] != admin.Starting || states[servicesName] != admin.Off {
		t.Errorf("controllers: %v", states)
	}
	if _, err := client.Get(t.Context(), "peers"); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("peers: %v", err)
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("it ended with %v", err)
	}
}

// Once there are controllers, the probes are theirs.
func TestChecksAfterTheWait(t *testing.T) {
	a := testAgent(t, "--run-service-proxy=false", "--run-router=false")
	alive, ready := a.checks()
	if got := answer(ready[policyName]()); got != "false starting" {
		t.Errorf("before: %q", got)
	}
	a.parts = []part{{policyName, (&stub{}).finish()}}
	close(a.built)
	if got := answer(alive[policyName]()); got != "true waits for changes" || len(alive) != 1 {
		t.Errorf("/healthz: %q of %d", got, len(alive))
	}
	if got := answer(ready[policyName]()); got != "true ready" || len(ready) != 1 {
		t.Errorf("/readyz: %q of %d", got, len(ready))
	}
}
