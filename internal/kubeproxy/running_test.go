package kubeproxy

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// proc is a proc file system with processes, in the form "PID NAME NETWORK".
func proc(t *testing.T, processes ...string) string {
	t.Helper()
	dir := t.TempDir()
	link := func(path, to string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	link("thread-self/ns/net", "net:[1]")
	link("thread-self/net", "/proc/thread-self/net")
	for _, p := range processes {
		f := strings.Fields(p)
		link(f[0]+"/ns/net", f[2])
		if err := os.WriteFile(filepath.Join(dir, f[0], "comm"), []byte(f[1]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// answering is a port of this host at which a web server answers everything.
func answering(t *testing.T, body string) uint16 {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String()).Port()
}

func TestRunning(t *testing.T) {
	silent, err := net.Listen("tcp", "0.0.0.0:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	hanging := uint16(silent.Addr().(*net.TCPAddr).Port)
	iptables, lastUpdated := answering(t, "iptables"), answering(t, `{"lastUpdated": "2026-11-23 02:00:00", "nodeEligible": true}`)
	for _, c := range []struct {
		name string
		host Host
		want string
	}{
		{"nothing", Host{Proc: proc(t, "1 init net:[1]", "7 kube-proxy-mine net:[1]")}, ""},
		{"its process", Host{Proc: proc(t, "1 init net:[1]", "7 kube-proxy net:[1]")}, "process 7"},
		{"that of another node on this host", Host{Proc: proc(t, "7 kube-proxy net:[2]")}, ""},
		{"its mode", Host{Proc: proc(t), Metrics: iptables}, fmt.Sprintf("http://127.0.0.1:%d/proxyMode answers", iptables)},
		{"its health", Host{Proc: proc(t), Health: lastUpdated}, fmt.Sprintf("http://127.0.0.1:%d/healthz answers", lastUpdated)},
		{"something else on its port", Host{Proc: proc(t), Metrics: answering(t, "hello"), Health: answering(t, "ok")}, ""},
		{"a port that does not answer", Host{Proc: proc(t), Health: hanging}, fmt.Sprintf("what listens at 127.0.0.1:%d does not answer", hanging)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := strings.Join(c.host.Running(t.Context()), ", "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSeesProcesses(t *testing.T) {
	if !(Host{Proc: proc(t, "2 kthreadd net:[1]")}).SeesProcesses() {
		t.Error("the host's processes are not seen")
	}
	if (Host{Proc: proc(t, "1 pause net:[1]", "2 kube-router net:[1]")}).SeesProcesses() {
		t.Error("a container's processes are taken for the host's")
	}
}

func TestParseSocket(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:2809": "127.0.0.1:10249", "00000000:2810": "0.0.0.0:10256",
		"00000000000000000000000001000000:2810": "[::1]:10256", "0000000000000000FFFF00000100007F:2810": "127.0.0.1:10256",
	} {
		if got, ok := parseSocket(text); !ok || got.String() != want {
			t.Errorf("%s is %s, %t, want %s", text, got, ok, want)
		}
	}
	for _, bad := range []string{"", ":", "0100007F", "0100007F:28099", "01:2809", "zz:zz"} {
		if got, ok := parseSocket(bad); ok {
			t.Errorf("%q is %s", bad, got)
		}
	}
}
