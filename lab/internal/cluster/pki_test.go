package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// TestCertificates lets a client with a written kubeconfig talk to a server
// with a written certificate, both verifying each other.
func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	ca, err := writePKI(dir, "127.0.0.1", apiServiceIP)
	if err != nil {
		t.Fatal(err)
	}
	serving, err := tls.LoadX509KeyPair(filepath.Join(dir, "apiserver.crt"), filepath.Join(dir, "apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca.pem.cert)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		subject := r.TLS.PeerCertificates[0].Subject
		if subject.CommonName != "system:node:node1" || strings.Join(subject.Organization, ",") != "system:nodes" {
			t.Errorf("the client is %s", subject)
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{serving}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	defer server.Close()
	conf, _, err := ca.kubeconfig(server.URL, "system:node:node1", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kubelet.conf")
	if err := os.WriteFile(path, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := newAPI(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	good := Options{Nodes: 3, Router: RouterProduct}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, o := range []Options{{Nodes: 0, Router: RouterNone}, {Nodes: 51, Router: RouterNone}, {Nodes: 1, Router: "flannel"}} {
		if err := o.Validate(); err == nil || !strings.HasPrefix(err.Error(), "--") {
			t.Errorf("%+v: %v, want an error that names the flag", o, err)
		}
	}
}

// TestDownAfterACrash removes what a start that was killed left behind, and
// does nothing the second time.
func TestDownAfterACrash(t *testing.T) {
	l := New(workspace.Workspace{Root: t.TempDir()})
	if err := l.writeState(&state{Options: Options{Nodes: 3}}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Kubeconfig(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if was, err := l.Down(); err != nil || !was {
		t.Errorf("Down = %t, %v", was, err)
	}
	for _, path := range []string{l.run(), l.Kubeconfig()} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there", path)
		}
	}
	if was, err := l.Down(); err != nil || was {
		t.Errorf("the second Down = %t, %v", was, err)
	}
}

func TestOneCommandAtATime(t *testing.T) {
	l := New(workspace.Workspace{Root: t.TempDir()})
	release, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Down(); err == nil {
		t.Error("lab down ran while another command held the lab")
	}
	if err := l.Up(t.Context(), progress.New(os.Stderr), Options{Nodes: 1, Router: RouterNone}); err == nil {
		t.Error("lab up ran while another command held the lab")
	}
	release()
	if _, err := l.Down(); err != nil {
		t.Error(err)
	}
}
