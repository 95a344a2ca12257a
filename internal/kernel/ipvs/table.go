package ipvs

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// tableFile has all virtual servers of this thread's network namespace with
// their real servers (kernel source net/netfilter/ipvs/ip_vs_ctl.c,
// ip_vs_info_seq_show). Netlink gives the real servers of one virtual server a
// request: with 5,000 of them, most of the time of a resync.
const tableFile = "/proc/thread-self/net/ip_vs"

// readReals reads the real servers of all virtual servers.
func readReals() (map[ID]map[netip.AddrPort]Real, error) {
	f, err := os.Open(tableFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	reals, err := parseReals(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tableFile, err)
	}
	return reals, nil
}

// parseReals reads lines "TCP  0A60000A:0050 rr", each followed by a line
// "  -> 0AF40102:1F90      Masq    1      0          0" for each real server.
// A mark's line does not say its family: its real servers do.
func parseReals(r io.Reader) (map[ID]map[netip.AddrPort]Real, error) {
	all := map[ID]map[netip.AddrPort]Real{}
	var current ID
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 64<<10)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || strings.HasSuffix(f[0], ":Port") || f[1] == "RemoteAddress:Port" || f[0] == "IP" || f[0] == "Prot" {
			continue // headings
		}
		if f[0] != "->" {
			var err error
			if current, err = parseVirtual(f[0], f[1]); err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			continue
		}
		addr, real, err := parseReal(f[1:])
		if err != nil {
			return nil, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		id := current
		if id.Mark != 0 {
			id.Family = inet.FamilyOf(addr.Addr())
		}
		if all[id] == nil {
			all[id] = map[netip.AddrPort]Real{}
		}
		all[id][addr] = real
	}
	return all, lines.Err()
}

// parseVirtual reads the first two words of a virtual server's line. One of
// another protocol than ours is the zero ID, and so are its real servers.
func parseVirtual(kind, where string) (ID, error) {
	if kind == "FWM" {
		mark, err := strconv.ParseUint(where, 16, 32)
		return ID{Mark: uint32(mark)}, err
	}
	protocol, err := inet.ParseProtocol(kind)
	if err != nil {
		return ID{}, nil
	}
	addr, err := parseSocket(where)
	return ID{Protocol: protocol, Addr: addr}, err
}

var methods = map[string]Method{"Masq": Masquerade, "Tunnel": Tunnel, "Route": Route, "Local": 1}

func parseReal(f []string) (netip.AddrPort, Real, error) {
	if len(f) < 3 {
		return netip.AddrPort{}, Real{}, errMalformed
	}
	addr, err := parseSocket(f[0])
	if err != nil {
		return netip.AddrPort{}, Real{}, err
	}
	method, known := methods[f[1]]
	weight, err := strconv.ParseInt(f[2], 10, 32)
	if err != nil || weight < 0 || !known {
		return netip.AddrPort{}, Real{}, errMalformed
	}
	return addr, Real{Weight: uint32(weight), Method: method}, nil
}

// parseSocket reads "0A60000A:0050" or "[fd00:0096:...:000a]:0050".
func parseSocket(s string) (netip.AddrPort, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, errMalformed
	}
	port, err := strconv.ParseUint(s[i+1:], 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	host := s[:i]
	if strings.HasPrefix(host, "[") {
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return netip.AddrPort{}, errMalformed
		}
		return netip.AddrPortFrom(addr, uint16(port)), nil
	}
	b, err := hex.DecodeString(host)
	if err != nil || len(b) != 4 {
		return netip.AddrPort{}, errMalformed
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(port)), nil
}
