//go:build kernel

package nft

import (
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

func TestKernel(t *testing.T) {
	nstest.New(t)
	for _, table := range []string{"ip kube-proxy", "ip6 kube-proxy", "inet mine"} {
		nstest.Run(t, "sh", "-euc", "nft add table "+table+"; nft add chain "+table+" c '{ type filter hook input priority 0; }'; nft add rule "+table+" c accept")
	}
	driver, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	suite(t, driver)
}
