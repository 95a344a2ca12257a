package peering

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/inet"
)

// external are the peers that the node's annotations name. One that is wrong
// is left out and the others stay.
func (r *reader) external(c Config) []bgp.Peer {
	entries, where := r.entries()
	var peers []bgp.Peer
	for i, e := range entries {
		if e == nil {
			continue // reported
		}
		p, err := e.peer(c)
		if err == nil && slices.ContainsFunc(peers, func(o bgp.Peer) bool { return o.Addr == p.Addr }) {
			err = fmt.Errorf("%s is there already", p.Addr)
		}
		if err != nil {
			r.bad(where, "peer %d: %v; it is left out", i+1, err)
			continue
		}
		peers = append(peers, p)
	}
	return peers
}

// entry is a peer of the consolidated annotation, as it is written.
type entry struct {
	RemoteIP    string  `json:"remoteip"`
	RemoteASN   *uint32 `json:"remoteasn"`
	LocalIP     string  `json:"localip"`
	Password    string  `json:"password"`
	Port        *uint16 `json:"port"`
	HoldTime    string  `json:"holdtime"`
	MultihopTTL *uint8  `json:"multihopttl"`
	MaxPrefixes *uint32 `json:"maxprefixes"`
	BFD         *struct {
		Enabled    bool   `json:"enabled"`
		Port       uint16 `json:"port"`
		Multiplier uint8  `json:"detection_multiplier"`
		MinRx      uint32 `json:"required_min_rx_interval"` // milliseconds
		MinTx      uint32 `json:"desired_min_tx_interval"`
	} `json:"bfd"`
}

// entries are the peers of the consolidated annotation, else of the older
// lists, and the annotation that they are in.
func (r *reader) entries() ([]*entry, string) {
	text, ok := r.node.Annotations[peersAnnotation]
	if !ok {
		return r.lists(), peerIPs
	}
	if _, both := r.node.Annotations[peerIPs]; both {
		r.bad(peerIPs, "is not looked at: %s is there, and says it all", peersAnnotation)
	}
	var raw []json.RawMessage
	if converted, err := yaml.YAMLToJSON([]byte(text)); err != nil {
		r.bad(peersAnnotation, "is not YAML%s; no peer of it is used", lineOf(err))
		return nil, peersAnnotation
	} else if err := json.Unmarshal(converted, &raw); err != nil {
		r.bad(peersAnnotation, "is not a list; write '- remoteip: 192.0.2.1' and so on; no peer of it is used")
		return nil, peersAnnotation
	}
	list := make([]*entry, len(raw))
	for i, one := range raw {
		e, err := decode(one)
		if err != nil {
			r.bad(peersAnnotation, "peer %d: %v; it is left out", i+1, err)
			continue
		}
		list[i] = e
	}
	return list, peersAnnotation
}

// lineOf is where a text is not YAML. The rest of such an error may repeat the
// text, and with it passwords.
func lineOf(err error) string {
	if at := regexp.MustCompile(`line \d+`).FindString(err.Error()); at != "" {
		return " (" + at + ")"
	}
	return ""
}

func decode(text []byte) (*entry, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	e := &entry{}
	err := d.Decode(e)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field != "":
		return nil, fmt.Errorf("%s is not what it must be: %s", wrong.Field, kindOf(wrong.Type.Kind().String()))
	case err != nil && strings.Contains(err.Error(), "unknown field"):
		return nil, fmt.Errorf("%s; allowed are remoteip, remoteasn, localip, password, port, holdtime, multihopttl, maxprefixes and bfd",
			strings.TrimPrefix(err.Error(), "json: "))
	case err != nil || bytes.Equal(text, []byte("null")):
		return nil, errors.New("is not a map; write 'remoteip: 192.0.2.1' and so on")
	}
	return e, nil
}

func kindOf(kind string) string {
	switch kind {
	case "string":
		return "text, in quotes where it looks like a number"
	case "uint8":
		return "a number of 0 to 255"
	case "uint16":
		return "a number of 0 to 65535"
	case "bool":
		return "true or false"
	case "struct":
		return "a map"
	}
	return "a number of 0 to 4294967295"
}

// lists are the peers of the older form: lists with commas between, of equal
// length, of which all but those of addresses and AS numbers may be missing.
func (r *reader) lists() []*entry {
	ips := words(r.node.Annotations[peerIPs])
	lists := map[string][]string{}
	for _, name := range []string{peerASNs, peerPorts, peerPasswords, peerLocals} {
		list := words(r.node.Annotations[name])
		if len(list) == 0 && name != peerASNs {
			list = make([]string, len(ips))
		}
		if len(list) != len(ips) {
			r.bad(name, "has %d entries, and %s has %d; no peer of them is used", len(list), peerIPs, len(ips))
			return nil
		}
		lists[name] = list
	}
	all := make([]*entry, len(ips))
	for i := range ips {
		e := &entry{RemoteIP: ips[i], LocalIP: lists[peerLocals][i], Password: lists[peerPasswords][i]}
		asn, err := ParseASN(lists[peerASNs][i])
		if err != nil {
			r.bad(peerASNs, "entry %d: %v; that peer is left out", i+1, err)
			continue
		}
		port, err := parsePort(lists[peerPorts][i])
		if err != nil {
			r.bad(peerPorts, "entry %d: %v; that peer is left out", i+1, err)
			continue
		}
		e.RemoteASN = &asn
		if port != 0 {
			e.Port = &port
		}
		all[i] = e
	}
	return all
}

// peer reads an entry.
func (e *entry) peer(c Config) (bgp.Peer, error) {
	p := c.router()
	p.BFD = bgp.BFD{}
	var err error
	if p.Addr, err = peerAddr("remoteip", e.RemoteIP); err != nil {
		return p, err
	}
	if e.RemoteASN == nil {
		return p, errors.New("remoteasn is missing")
	}
	if p.ASN, err = ParseASN(strconv.FormatUint(uint64(*e.RemoteASN), 10)); err != nil {
		return p, err
	}
	if e.LocalIP != "" {
		if p.Local, err = peerAddr("localip", e.LocalIP); err != nil {
			return p, err
		}
		if inet.FamilyOf(p.Local) != inet.FamilyOf(p.Addr) {
			return p, fmt.Errorf("localip %s and remoteip %s are of different address families", p.Local, p.Addr)
		}
	}
	if e.Port != nil {
		if p.Port = *e.Port; p.Port == 0 {
			return p, errors.New("port 0 is not a port; allowed are 1 to 65535")
		}
	}
	if p.Password, err = ParsePassword(e.Password); err != nil {
		return p, err
	}
	return e.times(p)
}

// longestBFD is the longest interval in milliseconds: BFD carries microseconds
// in 32 bits (RFC 5880).
const longestBFD = 4294967

// times reads what else there is.
func (e *entry) times(p bgp.Peer) (bgp.Peer, error) {
	if e.HoldTime != "" {
		d, err := ParseHoldTime(e.HoldTime)
		if err != nil {
			return p, err
		}
		p.HoldTime = d
	}
	if e.MultihopTTL != nil {
		p.MultihopTTL = *e.MultihopTTL
	}
	if e.MaxPrefixes != nil {
		p.MaxPrefixes = *e.MaxPrefixes
	}
	if b := e.BFD; b != nil && b.Enabled {
		switch {
		case p.MultihopTTL > 1:
			return p, fmt.Errorf("bfd is for peers on a subnet of the node (RFC 5881), and multihopttl is %d; leave one of the two out", p.MultihopTTL)
		case b.MinTx > longestBFD || b.MinRx > longestBFD:
			return p, fmt.Errorf("an interval of bfd is too long; allowed are 0 to %d milliseconds", longestBFD)
		}
		p.BFD = bgp.BFD{
			Enabled: true, Port: b.Port, Multiplier: uint32(b.Multiplier),
			MinTx: time.Duration(b.MinTx) * time.Millisecond, MinRx: time.Duration(b.MinRx) * time.Millisecond,
		}
	}
	return p, nil
}

// ParseHoldTime reads a hold time, which BGP carries as seconds in 16 bits and
// which is 3 at least (RFC 4271 section 4.2).
func ParseHoldTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 3*time.Second || d > 65535*time.Second || d%time.Second != 0 {
		return 0, fmt.Errorf("%s is not a hold time; allowed are whole seconds, 3s to 65535s", quote(s))
	}
	return d, nil
}

// peerAddr reads the address of a session's end.
func peerAddr(what, s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%s %s is not the IP address of a router", what, quote(s))
	}
	return addr.Unmap(), nil
}

// router is a peer outside of the cluster, as the flags would have all of them.
func (c Config) router() bgp.Peer {
	return bgp.Peer{
		Role: bgp.External, HoldTime: c.HoldTime, MultihopTTL: c.MultihopTTL, MaxPrefixes: c.MaxPrefixes, BFD: c.BFD,
	}
}
