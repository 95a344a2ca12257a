package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// The generic netlink family and the parts of its messages that are in use
// (include/uapi/linux/ip_vs.h).
const (
	familyName    = "IPVS"
	familyVersion = 1

	cmdNewService = 1
	cmdSetService = 2
	cmdDelService = 3
	cmdGetService = 4
	cmdNewDest    = 5
	cmdSetDest    = 6
	cmdDelDest    = 7
	cmdGetDest    = 8

	attrService = 1
	attrDest    = 2

	svcFamily    = 1
	svcProtocol  = 2
	svcAddr      = 3
	svcPort      = 4
	svcFWMark    = 5
	svcScheduler = 6
	svcFlags     = 7
	svcTimeout   = 8
	svcNetmask   = 9

	destAddr   = 1
	destPort   = 2
	destMethod = 3
	destWeight = 4
	destUpper  = 5
	destLower  = 6
	destActive = 7
	destInact  = 8
	destFamily = 11
)

// The flags of a virtual server (IP_VS_SVC_F_*). settableFlags are those that
// its owner decides on: persistent, one packet, and the scheduler's three.
const (
	flagPersistent = 0x01
	settableFlags  = 0x01 | 0x04 | 0x08 | 0x10 | 0x20

	schedFlagsShift = 3
	schedFlagsMask  = 0x07
)

// forwardMask is the part of a connection's flags that is the Method
// (IP_VS_CONN_F_FWD_MASK).
const forwardMask = 0x07

var commands = [...]uint8{
	AddServer: cmdNewService, SetServer: cmdSetService, DeleteServer: cmdDelService,
	AddReal: cmdNewDest, SetReal: cmdSetDest, DeleteReal: cmdDelDest,
}

// appendChange appends the body of the message for a change that check accepts.
func appendChange(b []byte, c Change) []byte {
	e := begin(b, commands[c.Op])
	e.Nest(attrService, func() {
		putID(e, c.ID)
		if c.Op == AddServer || c.Op == SetServer {
			putConfig(e, c.Config, c.ID.family())
		}
	})
	if c.Op == AddReal || c.Op == SetReal || c.Op == DeleteReal {
		e.Nest(attrDest, func() { putReal(e, c) })
	}
	return e.B
}

// begin appends the header of generic netlink; the attributes come after it.
func begin(b []byte, command uint8) *nlsock.Encoder {
	return &nlsock.Encoder{B: append(b, command, familyVersion, 0, 0)}
}

func putID(e *nlsock.Encoder, id ID) {
	e.Put16(svcFamily, addressFamily(id.family()))
	if id.Mark != 0 {
		e.Put32(svcFWMark, id.Mark)
		return
	}
	e.Put16(svcProtocol, uint16(id.Protocol))
	putAddr(e, svcAddr, id.Addr.Addr())
	putPort(e, svcPort, id.Addr.Port())
}

// putAddr appends an address as the kernel's union nf_inet_addr.
func putAddr(e *nlsock.Encoder, kind uint16, a netip.Addr) {
	var u [16]byte
	if a.Is4() {
		short := a.As4()
		copy(u[:], short[:])
	} else {
		u = a.As16()
	}
	e.Put(kind, u[:]...)
}

func putPort(e *nlsock.Encoder, kind, port uint16) { e.Put(kind, byte(port>>8), byte(port)) }

func putConfig(e *nlsock.Encoder, c Config, family inet.Family) {
	flags := uint32(c.SchedFlags) << schedFlagsShift
	if c.Persistence > 0 {
		flags |= flagPersistent
	}
	e.PutString(svcScheduler, c.Scheduler)
	var both [8]byte
	binary.NativeEndian.PutUint32(both[:], flags)
	binary.NativeEndian.PutUint32(both[4:], settableFlags)
	e.Put(svcFlags, both[:]...)
	e.Put32(svcTimeout, c.Persistence)
	e.Put32(svcNetmask, hostMask(family))
}

// hostMask makes each client address persistent on its own: a mask for IPv4,
// the length of a prefix for IPv6.
func hostMask(family inet.Family) uint32 {
	if family == inet.IPv4 {
		return 0xffffffff
	}
	return 128
}

func putReal(e *nlsock.Encoder, c Change) {
	putAddr(e, destAddr, c.RealAddr.Addr())
	putPort(e, destPort, c.RealAddr.Port())
	e.Put16(destFamily, addressFamily(inet.FamilyOf(c.RealAddr.Addr())))
	if c.Op == DeleteReal {
		return
	}
	e.Put32(destMethod, uint32(c.Real.Method))
	e.Put32(destWeight, c.Real.Weight)
	e.Put32(destUpper, 0)
	e.Put32(destLower, 0)
}

func addressFamily(f inet.Family) uint16 {
	if f == inet.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

var errMalformed = errors.New("malformed answer of the kernel")

// decodeUnion reads an address of a known family. The kernel may leave out the
// part of the union that the family does not use.
func decodeUnion(b []byte, family uint16) (netip.Addr, error) {
	size := map[uint16]int{unix.AF_INET: 4, unix.AF_INET6: 16}[family]
	if size == 0 || len(b) < size {
		return netip.Addr{}, fmt.Errorf("%w: address of family %d in %d bytes", errMalformed, family, len(b))
	}
	addr, _ := netip.AddrFromSlice(b[:size])
	return addr, nil
}

func decodePort(b []byte) (uint16, error) {
	if len(b) != 2 {
		return 0, fmt.Errorf("%w: port in %d bytes", errMalformed, len(b))
	}
	return binary.BigEndian.Uint16(b), nil
}

// attribute returns the content of the one attribute that a message has.
func attribute(data []byte, kind uint16) ([]byte, error) {
	const header = 4 // of generic netlink
	if len(data) < header {
		return nil, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	ad, err := netlink.NewAttributeDecoder(data[header:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	for ad.Next() {
		if ad.Type() == kind {
			return ad.Bytes(), nil
		}
	}
	return nil, fmt.Errorf("%w: attribute %d is missing", errMalformed, kind)
}

// decodeService reads a message of a dump of services. ok is false for a
// service that is addressed in a way we don't know.
func decodeService(data []byte) (id ID, config Config, ok bool, err error) {
	body, err := attribute(data, attrService)
	if err != nil {
		return ID{}, Config{}, false, err
	}
	ad, err := netlink.NewAttributeDecoder(body)
	if err != nil {
		return ID{}, Config{}, false, fmt.Errorf("%w: %w", errMalformed, err)
	}
	var raw rawService
	for ad.Next() {
		raw.read(ad)
	}
	if err := ad.Err(); err != nil {
		return ID{}, Config{}, false, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return raw.parse()
}

type rawService struct {
	family, protocol uint16
	addr, port       []byte
	mark             uint32
	scheduler        string
	flags            []byte
	timeout          uint32
}

func (r *rawService) read(ad *netlink.AttributeDecoder) {
	switch ad.Type() {
	case svcFamily:
		r.family = ad.Uint16()
	case svcProtocol:
		r.protocol = ad.Uint16()
	case svcAddr:
		r.addr = ad.Bytes()
	case svcPort:
		r.port = ad.Bytes()
	case svcFWMark:
		r.mark = ad.Uint32()
	case svcScheduler:
		r.scheduler = ad.String()
	case svcFlags:
		r.flags = ad.Bytes()
	case svcTimeout:
		r.timeout = ad.Uint32()
	}
}

func (r *rawService) parse() (id ID, config Config, ok bool, err error) {
	if id, ok, err = r.id(); !ok || err != nil {
		return ID{}, Config{}, false, err
	}
	if len(r.flags) < 4 {
		return ID{}, Config{}, false, fmt.Errorf("%w: flags in %d bytes", errMalformed, len(r.flags))
	}
	config.Scheduler = r.scheduler
	flags := binary.NativeEndian.Uint32(r.flags)
	if flags&flagPersistent != 0 {
		config.Persistence = r.timeout
	}
	config.SchedFlags = SchedFlags(flags >> schedFlagsShift & schedFlagsMask)
	return id, config, true, nil
}

func (r *rawService) id() (id ID, ok bool, err error) {
	if r.mark != 0 {
		family, ok := map[uint16]inet.Family{unix.AF_INET: inet.IPv4, unix.AF_INET6: inet.IPv6}[r.family]
		return MarkID(r.mark, family), ok, nil
	}
	protocol := inet.Protocol(r.protocol)
	if r.protocol > 255 || protocol != inet.TCP && protocol != inet.UDP && protocol != inet.SCTP {
		return ID{}, false, nil
	}
	addr, err := decodeUnion(r.addr, r.family)
	if err != nil {
		return ID{}, false, err
	}
	port, err := decodePort(r.port)
	return ID{Protocol: protocol, Addr: netip.AddrPortFrom(addr, port)}, err == nil, err
}

// destination is what the kernel tells about a real server.
type destination struct {
	addr        netip.AddrPort
	real        Real
	connections uint32 // active and inactive
}

// decodeDest reads a message of a dump of a service's real servers.
func decodeDest(data []byte, service ID) (destination, error) {
	body, err := attribute(data, attrDest)
	if err != nil {
		return destination{}, err
	}
	ad, err := netlink.NewAttributeDecoder(body)
	if err != nil {
		return destination{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	var (
		d            destination
		addrB, portB []byte
		family       = addressFamily(service.family())
	)
	for ad.Next() {
		switch ad.Type() {
		case destAddr:
			addrB = ad.Bytes()
		case destPort:
			portB = ad.Bytes()
		case destMethod:
			d.real.Method = Method(ad.Uint32() & forwardMask)
		case destWeight:
			d.real.Weight = ad.Uint32()
		case destActive, destInact:
			d.connections += ad.Uint32()
		case destFamily:
			family = ad.Uint16()
		}
	}
	if err := ad.Err(); err != nil {
		return destination{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	addr, err := decodeUnion(addrB, family)
	if err != nil {
		return destination{}, err
	}
	port, err := decodePort(portB)
	d.addr = netip.AddrPortFrom(addr, port)
	return d, err
}
