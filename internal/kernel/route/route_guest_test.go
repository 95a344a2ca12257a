//go:build guest

package route

import (
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// Dummy links are in the guest's kernel alone.
func TestCeding(t *testing.T) {
	nstest.New(t)
	nstest.Run(t, "sh", "-euc", `ip link add v0 type veth peer name v0p; ip link set v0p up; ip link set v0 up
ip address add 192.168.66.11/24 dev v0; ip address add 192.168.67.11/24 dev v0`)
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	k.Ceding = []string{"former0"}
	testCeding(t, system{
		Interface: k, text: func(table int) string { return ipRoute(t, table) },
		delLink: func(name string) { nstest.Run(t, "ip", "link", "delete", name) },
		addDummy: func(name, addr string) {
			nstest.Run(t, "ip", "link", "add", name, "type", "dummy")
			nstest.Run(t, "ip", "address", "add", addr, "dev", name)
		},
	})
}
