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
		addVeth:   func(name string) { addLink(t, name, 1500, nil) },
		addOther: func(name string) {
			nstest.Run(t, "ip", "link", "add", name, "up", "type", "vxlan", "id", "9", "dstport", "4790")
		},
		addPort: func(bridge, name string) {
			if bridge == "" {
				nstest.Run(t, "ip", "link", "set", name, "nomaster")
				return
			}
			nstest.Run(t, "ip", "link", "set", name, "master", bridge)
		},
		tunnel: func(name string) string { return tunnelText(t, name) },
		noGUE: func() bool {
			nstest.Run(t, "modprobe", "-a", "fou", "ipip")
			probe := []string{"link", "add", "probe0", "type", "ipip", "local", "192.0.2.1", "encap", "gue", "encap-sport", "auto", "encap-dport", "9"}
			if exec.Command("ip", probe...).Run() != nil {
				return true
			}
			nstest.Run(t, "ip", "link", "delete", "probe0")
			return false
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

// tunnelText is a tunnel as ip and bridge tell about it, in the form of
// Tunnel.String, and below the entries of the nodes; "" where there is none.
func tunnelText(t *testing.T, name string) string {
	t.Helper()
	var links []struct {
		MTU      int      `json:"mtu"`
		Flags    []string `json:"flags"`
		LinkInfo struct {
			Kind string `json:"info_kind"`
			Data struct {
				Local  string          `json:"local"`
				Local6 string          `json:"local6"`
				Remote string          `json:"remote"`
				Port   int             `json:"port"`
				Encap  json.RawMessage `json:"encap"`
			} `json:"info_data"`
		} `json:"linkinfo"`
	}
	out, err := exec.Command("ip", "-details", "-json", "link", "show", "dev", name).Output()
	if err != nil {
		return ""
	}
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		t.Fatalf("ip link: %v: %s", err, out)
	}
	l := links[0]
	text := fmt.Sprintf("%s %s local %s", name, l.LinkInfo.Kind, l.LinkInfo.Data.Local+l.LinkInfo.Data.Local6)
	if r := l.LinkInfo.Data.Remote; r != "" && r != "any" {
		text += " remote " + r
	}
	text += fmt.Sprintf(" mtu %d", l.MTU)
	if !slices.Contains(l.Flags, "UP") {
		text += " down"
	}
	if l.LinkInfo.Kind == "vxlan" {
		return text + fmt.Sprintf(" port %d", l.LinkInfo.Data.Port) + sourcesText(t, name) + entriesText(t, name)
	}
	if details := nstest.Run(t, "ip", "-details", "link", "show", "dev", name); strings.Contains(details, "encap gue") {
		_, port, _ := strings.Cut(details, "encap-dport ")
		text += " gue " + strings.Fields(port)[0]
		if family, open := familyOption(l.LinkInfo.Kind), strings.Fields(port)[0]; !strings.Contains(nstest.Run(t, "ip", family, "fou", "show"), "port "+open+" gue") {
			text += " closed"
		}
	}
	return text + sourcesText(t, name)
}

func sourcesText(t *testing.T, name string) (text string) {
	for _, bits := range []string{"/32", "/128"} {
		for word := range strings.FieldsSeq(nstest.Run(t, "ip", "address", "show", "dev", name)) {
			if addr, ok := strings.CutSuffix(word, bits); ok {
				text += " src " + addr
			}
		}
	}
	return text
}

func familyOption(kind string) string {
	if kind == string(IP6IP6) {
		return "-6"
	}
	return "-4"
}

func entriesText(t *testing.T, name string) string {
	var lines []string
	for line := range strings.Lines(nstest.Run(t, "bridge", "fdb", "show", "dev", name)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "dst" {
			lines = append(lines, "\n"+strings.Join(f[:3], " "))
		}
	}
	for _, family := range []string{"-4", "-6"} {
		for line := range strings.Lines(nstest.Run(t, "ip", family, "neighbour", "show", "dev", name, "nud", "permanent")) {
			lines = append(lines, "\n"+strings.Join(strings.Fields(line)[:3], " "))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
