package image

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Who runs iptables in the container sees the rules that the agent made.
func TestIptablesIsOfTheAgentsVariant(t *testing.T) {
	const ours, kubelets = "*filter\n:KUBE-ROUTER-INPUT - [0:0]\nCOMMIT", "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT"
	for _, c := range []struct {
		name        string
		noNFT       bool
		legacy, nft string // what is loaded
		want        string
	}{
		{name: "nothing yet", want: "nft"},
		{name: "a kernel without nf_tables", noNFT: true, want: "legacy"},
		{name: "the agent chose nf_tables", nft: ours, want: "nft"},
		{name: "the agent chose legacy, though there is nf_tables", legacy: ours, nft: kubelets, want: "legacy"},
		{name: "legacy has leftovers of a former agent", legacy: ours, nft: ours, want: "nft"},
		{name: "legacy has rules of others", legacy: kubelets, want: "nft"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, family := range []string{"iptables", "ip6tables"} {
				dir := t.TempDir()
				programs := map[string]string{
					"nft":                      "exit 0",
					family + "-legacy-save":    "echo '" + c.legacy + "'",
					family + "-nft-save":       "echo '" + c.nft + "'",
					family + "-legacy":         `echo legacy "$@"`,
					family + "-nft":            `echo nft "$@"`,
					family + "-nft-restore":    `echo nft restores "$@"`,
					family + "-legacy-restore": `echo legacy restores "$@"`,
				}
				if c.noNFT {
					programs["nft"] = "echo 'cannot open netlink' >&2; exit 1"
				}
				for name, text := range programs {
					write(t, filepath.Join(dir, name), "#!/bin/sh\n"+text+"\n")
				}
				for _, f := range iptablesFiles() {
					write(t, filepath.Join(dir, filepath.Base(f.To)), f.Text)
				}
				for command, want := range map[string]string{
					family + " -L KUBE-ROUTER-INPUT -n -v": c.want + " -L KUBE-ROUTER-INPUT -n -v",
					family + "-restore --noflush":          c.want + " restores --noflush",
				} {
					args := strings.Fields(command)
					cmd := exec.Command(filepath.Join(dir, args[0]), args[1:]...)
					cmd.Env = []string{"PATH=" + dir}
					out, err := cmd.CombinedOutput()
					if got := strings.TrimSpace(string(out)); err != nil || got != want {
						t.Errorf("%s runs %q (%v), want %q", command, got, err, want)
					}
				}
			}
		})
	}
}
