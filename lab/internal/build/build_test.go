package build

import (
	"fmt"
	"testing"
)

func TestKubernetesVersion(t *testing.T) {
	mod := "module lab\n\nrequire (\n\tgolang.org/x/sys v0.40.0\n\tk8s.io/kubernetes v1.36.3\n)\n"
	if got, err := kubernetesVersion(mod); got != "v1.36.3" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := kubernetesVersion("module lab\n"); err == nil {
		t.Errorf("got %q without a requirement", got)
	}
}

func TestDemandNamesWhatThereIs(t *testing.T) {
	if _, err := demand("kube-proxy"); err != nil {
		t.Error(err)
	}
	_, err := demand("kube-poxy")
	if err == nil || err.Error() != `unknown program "kube-poxy": on demand there are kube-proxy, e2e.test` {
		t.Errorf("got %v", err)
	}
}

func TestProgramsOfAModuleAreBuiltTogether(t *testing.T) {
	got := fmt.Sprint(groups([]target{
		{name: "etcd", pkg: "go.etcd.io/etcd/server/v3"}, {name: "coredns", module: "addons"}, {name: "kubelet"},
		{name: "pause", module: "addons"}, {name: "e2e.test", test: true}, {name: "kubectl"},
	}))
	if want := "[etcd, kubelet and kubectl coredns and pause e2e.test]"; got != want {
		t.Errorf("groups %s, want %s", got, want)
	}
}

func TestProgramNames(t *testing.T) {
	for pkg, want := range map[string]string{
		"go.etcd.io/etcd/server/v3": "server", "k8s.io/kubernetes/cmd/kubelet": "kubelet", "./coredns": "coredns",
	} {
		if got := (target{pkg: pkg}).program(); got != want {
			t.Errorf("%s is %s, want %s", pkg, got, want)
		}
	}
}
