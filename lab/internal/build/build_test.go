package build

import "testing"

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
