//go:build kernel || guest

package link

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

func freshKernel(t *testing.T) system {
	nstest.New(t)
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return system{
		Interface: k,
		addLink:   func(name string, mtu int, addrs ...string) { addLink(t, name, mtu, addrs) },
		setDown:   func(name string) { nstest.Run(t, "ip", "link", "set", name, "down") },
		state:     func(name string) string { return state(t, name) },
		record:    func(r *record.File) { k.Record = r },
		addPort: func(bridge, name string) {
			if bridge == "" {
				nstest.Run(t, "ip", "link", "set", name, "nomaster")
				return
			}
			nstest.Run(t, "ip", "link", "set", name, "master", bridge)
		},
		hairpin: func(name string) bool {
			return strings.Contains(nstest.Run(t, "ip", "-details", "link", "show", "dev", name), "hairpin on")
		},
	}
}

func addLink(t *testing.T, name string, mtu int, addrs []string) {
	t.Helper()
	peer := "p" + name
	if exec.Command("ip", "link", "show", "dev", name).Run() == nil { // it is there
		for _, addr := range addrs {
			nstest.Run(t, "ip", "address", "add", addr, "dev", name)
		}
		return
	}
	nstest.Run(t, "ip", "link", "add", name, "mtu", strconv.Itoa(mtu),
		"type", "veth", "peer", "name", peer)
	nstest.Run(t, "ip", "link", "set", name, "up")
	for _, addr := range addrs {
		args := []string{"address", "add", addr, "dev", name}
		if strings.Contains(addr, ":") {
			args = append(args, "nodad")
		}
		nstest.Run(t, "ip", args...)
	}
}

// state is what ip -json tells about a link.
func state(t *testing.T, name string) string {
	t.Helper()
	var links []struct {
		Name     string   `json:"ifname"`
		MTU      int      `json:"mtu"`
		Flags    []string `json:"flags"`
		LinkInfo struct {
			Kind string `json:"info_kind"`
		} `json:"linkinfo"`
	}
	out := nstest.Run(t, "ip", "-details", "-json", "link", "show", "dev", name)
	if err := json.Unmarshal([]byte(out), &links); err != nil || len(links) != 1 {
		t.Fatalf("ip link: %v: %s", err, out)
	}
	l := links[0]
	up := map[bool]string{true: "up", false: "down"}[slices.Contains(l.Flags, "UP")]
	return fmt.Sprintf("%s %s mtu %d %s", l.Name, l.LinkInfo.Kind, l.MTU, up)
}
