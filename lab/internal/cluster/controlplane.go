package cluster

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/kube-router/kube-router/lab/internal/process"
)

// component is a process of the control plane.
type component struct {
	name string
	log  string
	// mark is the argument by which the process is known as this lab's.
	mark string
	args []string
}

func (c component) processes() []int { return process.WithArgument(c.mark) }

// components describes the control plane. The state may be nil where only the
// processes are to be found.
func (l *Lab) components(etcdPort int, s *state) []component {
	if s == nil {
		s = &state{}
	}
	host := s.Network.Host().String()
	pods, services := s.Options.ranges()
	pki := func(name string) string { return l.run("pki", name) }
	etcd := fmt.Sprintf("http://127.0.0.1:%d", etcdPort)
	list := []component{
		{name: "etcd", mark: "--data-dir=" + l.run("etcd"), args: []string{
			"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
			"--listen-peer-urls=http://127.0.0.1:0", "--unsafe-no-fsync", "--log-level=warn",
		}},
		{name: "kube-apiserver", mark: "--cert-dir=" + l.run("apiserver"), args: []string{
			"--etcd-servers=" + etcd, "--bind-address=" + host, "--advertise-address=" + host, fmt.Sprintf("--secure-port=%d", apiPort),
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--client-ca-file=" + pki("ca.crt"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-client-certificate=" + pki("kubelet-client.crt"),
			"--kubelet-client-key=" + pki("kubelet-client.key"), "--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc." + domain,
			"--service-account-key-file=" + pki("service-accounts.crt"), "--service-account-signing-key-file=" + pki("service-accounts.key"),
			"--service-cluster-ip-range=" + services, "--allow-privileged=true", "--anonymous-auth=false",
		}},
		{name: "kube-controller-manager", mark: "--kubeconfig=" + l.run("kube-controller-manager.conf"), args: []string{
			"--allocate-node-cidrs", "--cluster-cidr=" + pods, "--service-cluster-ip-range=" + services,
			"--use-service-account-credentials", "--service-account-private-key-file=" + pki("service-accounts.key"),
			"--root-ca-file=" + pki("ca.crt"), "--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
			"--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
		}},
		{name: "kube-scheduler", mark: "--kubeconfig=" + l.run("kube-scheduler.conf"), args: []string{
			"--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
		}},
	}
	for i := range list {
		list[i].log = l.run("logs", list[i].name+".log")
		list[i].args = append(list[i].args, list[i].mark)
	}
	return list
}

// launch starts a component in a session of its own: it outlives lab up, and
// an interrupt at the terminal is not meant for it.
func (l *Lab) launch(c component) (*exec.Cmd, error) {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(l.ws.Bin(c.name), c.args...)
	cmd.Dir = l.run()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return cmd, nil
}

// freePort finds a port for a server that only this machine uses, so that a
// second lab does not meet the first.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
