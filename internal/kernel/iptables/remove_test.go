package iptables

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

func TestVariants(t *testing.T) {
	const forbidden = "echo 'iptables-nft-save: Could not fetch rule set generation id: Permission denied (you must be root)' >&2; exit 4"
	for _, c := range []struct {
		name    string
		loaded  string // "" where legacy is not loaded
		nft     string // "" where its program is missing
		want    []Variant
		wantErr string
	}{
		{name: "both", loaded: "filter\n", nft: "true", want: []Variant{Legacy, NFT}},
		{name: "legacy alone, in the kernel", loaded: "nat\n", nft: fails, want: []Variant{Legacy}},
		{name: "legacy alone, of the programs", loaded: "nat\n", want: []Variant{Legacy}},
		{name: "nf_tables alone", nft: "true", want: []Variant{NFT}},
		{name: "no tables yet", nft: fails},
		{name: "not allowed", nft: forbidden, wantErr: "run it as root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.nft != "" {
				program(t, dir, "ip6tables-nft-save", "(nf_tables)", c.nft)
			}
			loaded := filepath.Join(dir, "ip6_tables_names")
			if c.loaded != "" {
				if err := os.WriteFile(loaded, []byte(c.loaded), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", "/nowhere")
			got, err := host{dirs: []string{dir}}.variants(t.Context(), inet.IPv6, loaded)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if c.wantErr == "" && err != nil || c.wantErr != "" && (err == nil || !strings.Contains(err.Error(), c.wantErr)) {
				t.Errorf("error %v, want %q", err, c.wantErr)
			}
		})
	}
}
