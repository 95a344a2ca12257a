package module

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeHost has ip_vs loaded, br_netfilter built in, nf_conntrack under
// /sys/module, and a modprobe that knows ip_vs_rr alone.
func fakeHost(t *testing.T, asked *[]string) host {
	root := t.TempDir()
	for name, text := range map[string]string{
		"proc/modules":                "ip_vs 184320 0 - Live 0x0000000000000000\nnf_nat 57344 1 ip_vs, Live 0x0\n",
		"sys/module/nf_conntrack/dir": "",
		"lib/6.1.0/modules.builtin":   "kernel/net/bridge/br_netfilter.ko\nkernel/net/netfilter/xt-set.ko\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return host{
		proc: filepath.Join(root, "proc"), sys: filepath.Join(root, "sys"),
		modules: filepath.Join(root, "lib"), release: "6.1.0",
		modprobe: func(name string) error {
			*asked = append(*asked, name)
			if name == "ip_vs_rr" {
				return nil
			}
			return errors.New("not found")
		},
	}
}

func TestLoadAsksOnlyForWhatIsNotThere(t *testing.T) {
	var asked []string
	err := fakeHost(t, &asked).load([]string{"ip_vs", "br_netfilter", "xt_set", "nf-conntrack", "ip_vs_rr"})
	if err != nil || !slices.Equal(asked, []string{"ip_vs_rr"}) {
		t.Errorf("asked for %q, %v", asked, err)
	}
}

func TestLoadNamesWhatIsMissing(t *testing.T) {
	var asked []string
	err := fakeHost(t, &asked).load([]string{"wireguard", "ip_vs_rr", "vs", "ipip"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{"wireguard", "vs", "ipip"} {
		if !strings.Contains(err.Error(), name+" (not found)") {
			t.Errorf("error %q does not name %s", err, name)
		}
	}
	if strings.Contains(err.Error(), "ip_vs_rr") {
		t.Errorf("error %q names what was loaded", err)
	}
}

func TestLoadWithoutAnyFileAsksModprobe(t *testing.T) {
	var asked []string
	h := fakeHost(t, &asked)
	h.proc, h.sys, h.modules = "/nonexistent", "/nonexistent", "/nonexistent"
	if err := h.load([]string{"ip_vs_rr"}); err != nil || len(asked) != 1 {
		t.Errorf("asked for %q, %v", asked, err)
	}
}
