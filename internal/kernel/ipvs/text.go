package ipvs

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Text is the state in the form of ipvsadm -Sn, a virtual server followed by
// its real servers, sorted.
func Text(servers map[ID]Server) string {
	var blocks []string
	for id, server := range servers {
		head := Change{Op: AddServer, ID: id, Config: server.Config}
		lines := []string{}
		for addr, real := range server.Real {
			lines = append(lines, Change{Op: AddReal, ID: id, RealAddr: addr, Real: real}.String()+"\n")
		}
		slices.Sort(lines)
		blocks = append(blocks, head.String()+"\n"+strings.Join(lines, ""))
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "")
}

// Equal says that the kernel has both configured alike, with the same real
// servers.
func (s Server) Equal(other Server) bool {
	return s.Config == other.Config && maps.Equal(s.Real, other.Real)
}

// clone is a copy that shares nothing.
func (s Server) clone() Server {
	s.Real = maps.Clone(s.Real)
	if s.Real == nil {
		s.Real = map[netip.AddrPort]Real{}
	}
	return s
}
