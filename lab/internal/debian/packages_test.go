package debian

import (
	"slices"
	"testing"
)

func TestMissing(t *testing.T) {
	query := "installed kmod\nnot-installed ipset\nconfig-files crun\n"
	got := missing([]string{"kmod", "ipset", "crun", "conntrack", "ipset"}, query)
	if want := []string{"ipset", "crun", "conntrack"}; !slices.Equal(got, want) {
		t.Errorf("missing = %v, want %v", got, want)
	}
}
