//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kube-router/kube-router/lab/internal/process"
)

// outage is for how long no API server answers.
const outage = 30 * time.Second

// apiServer is the process of the cluster's API server: the lab's, by the
// argument that names its directory.
func apiServer(t *testing.T) int {
	t.Helper()
	mark := "--cert-dir=" + filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), "run", "apiserver")
	pids := process.WithArgument(mark)
	if len(pids) != 1 {
		t.Fatalf("processes with argument %s: %v, want one", mark, pids)
	}
	return pids[0]
}

// While no API server answers, agents are alive and ready all the same, and
// traffic goes on. Afterwards they follow changes again.
func TestAPIServerOutage(t *testing.T) {
	ns := namespace(t)
	server := serve(t, ns, "server", 2)
	from := client(t, ns, "client", 1)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	vip := clusterIP(t, ns)
	connects(t, ns, "client", "http://"+vip+"/hostname")
	var before []string
	for node := 1; node <= 3; node++ {
		before = append(before, restarts(t, node))
	}

	packets := startFlow(t, 1, from, server)
	requests := startRequests(t, "requests", 1, from, vip+":80", "0.05")
	pid := apiServer(t)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var answers [3]string
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i], _ = sh(t.Context(), healthFor(i+1, outage)) })
	}
	all.Wait()
	if out, err := sh(t.Context(), "kubectl --request-timeout=2s get --raw /readyz"); err == nil {
		t.Errorf("there was no outage: %s", out)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for i, got := range answers {
		if n := strings.Count(got, "200"); n < 6 || strings.Count(got, "\n")+1 != n {
			t.Errorf("node%d answered %d times:\n%s", i+1, n, got)
		} else {
			t.Logf("node%d answered %d times, always 200", i+1, n)
		}
	}
	packets.lostNone(t)
	requests.all(t, true)

	eventually(t, succeeds, "kubectl --request-timeout=5s get --raw /readyz")
	must(t, "kubectl -n %s delete service server", ns)
	apply(t, ns, strings.Replace(fmt.Sprintf(service, "ClusterIP"), "{name: server}", "{name: later}", 1))
	later := must(t, "kubectl -n %s get service later -o jsonpath='{.spec.clusterIP}'", ns)
	connects(t, ns, "client", "http://"+later+"/hostname")
	for node := 1; node <= 3; node++ {
		if after := restarts(t, node); after != before[node-1] {
			t.Errorf("node%d: its agent was %s and is %s", node, before[node-1], after)
		}
	}
}

// healthFor asks a node's agent each second whether it is alive and ready, for
// some time, and prints a line for each answer.
func healthFor(node int, d time.Duration) string {
	ask := func(path string) string {
		return fmt.Sprintf(`bash -c "exec 3<>/dev/tcp/127.0.0.1/20244 && printf \"GET %s HTTP/1.0\r\n\r\n\" >&3 && head -n 1 <&3" 2>&1; `, path)
	}
	loop := fmt.Sprintf("end=$(($(date +%%s)+%d)); while [ $(date +%%s) -lt $end ]; do %s %s sleep 1; done", int(d.Seconds()), ask("/healthz"), ask("/readyz"))
	return fmt.Sprintf("%s exec --node %d %s", lab, node, quote(loop))
}

// restarts names the agent of a node and how often it was restarted.
func restarts(t *testing.T, node int) string {
	t.Helper()
	return must(t, "kubectl -n kube-system get pod %s -o jsonpath='{.metadata.name} {.status.containerStatuses[0].restartCount}'", agentOf(t, node))
}
