package cli

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/cleanup"
)

// What is not clear is refused before anything is looked at.
func TestMigrateUsage(t *testing.T) {
	for args, want := range map[string]string{
		"":                                    "--from=kube-proxy must be given",
		"--apply":                             "--from=kube-proxy must be given",
		"--from=flannel":                      "--from=kube-proxy must be given",
		"--from=kube-router":                  "an earlier release is replaced as docs/migrate.md says",
		"--from=kube-proxy now":               "now: nothing may follow but flags",
		"--from=kube-proxy --aply":            "unknown flag: --aply",
		"--from=kube-proxy --apply --dry-run": "exclude each other",
		"--from=kube-proxy --excluded-cidrs=10.1.0.0":              "10.1.0.0 is no network",
		"--from=kube-proxy --service-node-port-range=32767-30000":  "allowed is a range of ports",
		"--from=kube-proxy --service-node-port-range=30000-32767x": "allowed is a range of ports",
		"--from=kube-proxy --service-node-port-range=30000":        "allowed is a range of ports",
	} {
		var stdout, stderr bytes.Buffer
		status := Run(t.Context(), append([]string{"migrate"}, strings.Fields(args)...), &stdout, &stderr)
		if status != exitUsage || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
			t.Errorf("migrate %s: exit status %d, %s", args, status, stderr.String())
		}
	}
	var stdout, stderr bytes.Buffer
	if status := Run(t.Context(), []string{"migrate", "--help"}, &stdout, &stderr); status != exitWell || !strings.Contains(stdout.String(), "kube-router migrate --from=kube-proxy [--apply]") {
		t.Errorf("help: exit status %d, %s", status, stdout.String())
	}
}

func TestMigrateOptions(t *testing.T) {
	var m migration
	err := m.parse(strings.Fields("--from=kube-proxy --apply --excluded-cidrs=10.1.2.3/16,fd00::/64 --service-node-port-range=20000:20999 --socket=/x"))
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/64")}
	o := m.options
	if !m.apply || m.without || len(o.Excluded) != 2 || o.Excluded[0] != want[0] || o.Excluded[1] != want[1] ||
		o.NodePorts != (cleanup.PortRange{First: 20000, Last: 20999}) || o.Socket != "/x" || o.KubeProxy == nil {
		t.Errorf("%+v", m)
	}
}
