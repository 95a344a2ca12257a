package kubeproxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The ports of kube-proxy: for metrics, on loopback by default, and for health
// checks, on all addresses.
const (
	metricsPort = 10249
	healthPort  = 10256
)

// askTimeout is how long a kube-proxy may take to answer.
const askTimeout = time.Second

// Host is where a kube-proxy would run: this network namespace. Its process can
// be seen in the host's process namespace alone; its ports always.
type Host struct {
	// Proc is the proc file system.
	Proc string
	// Metrics and Health are its ports.
	Metrics, Health uint16
}

// ThisHost is the Host of the calling thread.
func ThisHost() Host { return Host{Proc: "/proc", Metrics: metricsPort, Health: healthPort} }

// Running returns the signs of a kube-proxy that runs, none where there are
// none: "http://127.0.0.1:10249/proxyMode answers", "process 4711". What listens
// at one of its ports and does not answer is a sign as well.
func (h Host) Running(ctx context.Context) []string {
	signs := h.processes()
	for _, at := range []struct {
		port uint16
		path string
	}{{h.Metrics, "/proxyMode"}, {h.Health, "/healthz"}} {
		for _, address := range h.listeners(at.port) {
			switch body, err := get(ctx, address, at.path); {
			case err != nil && !errors.Is(err, errNotHTTP):
				signs = append(signs, fmt.Sprintf("what listens at %s does not answer", address))
			case err == nil && isKubeProxy(body):
				signs = append(signs, fmt.Sprintf("http://%s%s answers", address, at.path))
			}
		}
	}
	return signs
}

// isKubeProxy says whether kube-proxy's mode is told, or when it was last
// updated.
func isKubeProxy(body string) bool {
	return slices.Contains([]string{"iptables", "ipvs", "nftables", "kernelspace"}, strings.TrimSpace(body)) || strings.Contains(body, `"lastUpdated"`)
}

// errNotHTTP means that something else than a web server has answered.
var errNotHTTP = errors.New("not HTTP")

// get asks on the calling thread: its network namespace counts.
func get(ctx context.Context, address netip.AddrPort, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	var timeout net.Error
	if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		return "", errors.Join(errNotHTTP, err)
	}
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<12))
	return string(body), err
}

// listeners are the addresses at which a TCP port is listened at; for all
// addresses it is loopback.
func (h Host) listeners(port uint16) []netip.AddrPort {
	found := map[netip.AddrPort]bool{}
	for _, file := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(h.Proc, "thread-self/net", file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" { // TCP_LISTEN
				continue
			}
			if at, ok := parseSocket(f[1]); ok && at.Port() == port {
				found[reachable(at)] = true
			}
		}
	}
	var list []netip.AddrPort
	for at := range found {
		list = append(list, at)
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

// reachable is where to ask what listens at an address.
func reachable(at netip.AddrPort) netip.AddrPort {
	if at.Addr().IsUnspecified() { // that of IPv6 takes IPv4 as well
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	}
	return at
}

// parseSocket reads "0100007F:2809" of /proc/net/tcp: words of 32 bits in the
// host's byte order.
func parseSocket(s string) (at netip.AddrPort, ok bool) {
	words, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(words)
	number, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw)%4 != 0 {
		return at, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), ok
}

// processes are those named kube-proxy in this network namespace, as far as
// they can be seen.
func (h Host) processes() (signs []string) {
	files, _ := filepath.Glob(filepath.Join(h.Proc, "[0-9]*", "comm"))
	ours, _ := os.Readlink(filepath.Join(h.Proc, "thread-self/ns/net"))
	for _, file := range files {
		name, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(name)) != "kube-proxy" {
			continue
		}
		dir := filepath.Dir(file)
		theirs, err := os.Readlink(filepath.Join(dir, "ns/net"))
		if errors.Is(err, fs.ErrNotExist) || err == nil && theirs != ours {
			continue // it has ended, or is that of another node
		}
		signs = append(signs, "process "+filepath.Base(dir))
	}
	return signs
}

// SeesProcesses says whether all processes of the host can be seen, so that
// one that is not seen is not there.
func (h Host) SeesProcesses() bool {
	// Process 2 of the host's namespace is the kernel's parent of its threads.
	name, err := os.ReadFile(filepath.Join(h.Proc, "2/comm"))
	return err == nil && strings.TrimSpace(string(name)) == "kthreadd"
}
