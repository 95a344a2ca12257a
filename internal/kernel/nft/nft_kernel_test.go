//go:build kernel

package nft

import (
	"slices"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

func TestKernel(t *testing.T) {
	nstest.New(t)
	for _, table := range []string{"ip kube-proxy", "ip6 kube-proxy", "inet mine"} {
		nstest.Run(t, "sh", "-euc", "nft add table "+table+"; nft add chain "+table+" c '{ type filter hook input priority 0; }'; nft add rule "+table+" c accept")
	}
	list, err := List()
	if err != nil {
		t.Fatal(err)
	}
	if want := []Table{{"ip", "kube-proxy"}, {"ip6", "kube-proxy"}, {"inet", "mine"}}; !slices.Equal(list, want) {
		t.Errorf("there are %v, want %v", list, want)
	}
	driver, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	suite(t, driver)
}
