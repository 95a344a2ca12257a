package conntrack

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/inet"
)

// The messages and attributes of ctnetlink
// (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	messageNew    netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK << 8
	messageGet    netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	messageDelete netlink.HeaderType = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	attrTupleOriginal = 1
	attrTupleReply    = 2
	attrMark          = 8
	attrID            = 12
	attrZone          = 18
	attrMarkMask      = 21
	attrFilter        = 25

	tupleIP    = 1
	tupleProto = 2

	ipV4Src = 1
	ipV4Dst = 2
	ipV6Src = 3
	ipV6Dst = 4

	protoNumber  = 1
	protoSrcPort = 2
	protoDstPort = 3

	filterOriginal = 1
	filterReply    = 2
	// compareProtocol is CTA_FILTER_FLAG(CTA_PROTO_NUM) of net/netfilter/nf_internals.h.
	compareProtocol = 1 << 3
)

// headerSize is the size of struct nfgenmsg: family, version, resource.
const headerSize = 4

// dump is one reading of the table: the entries of a protocol and a family.
type dump struct {
	protocol inet.Protocol
	family   inet.Family
}

// dumps are the readings that the flows need. A reading of both families would
// do, but the kernel refuses to filter one.
func (s flows) dumps() map[dump]struct{} {
	set := map[dump]struct{}{}
	for f := range s {
		set[dump{f.Protocol, f.family()}] = struct{}{}
	}
	return set
}

func (d dump) number() uint8 {
	if d.family == inet.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// message asks for the entries. The kernel picks the protocol since Linux 5.8;
// before, it ignores the filter and sends those of every protocol.
func (d dump) message() (netlink.Message, error) {
	enc := netlink.NewAttributeEncoder()
	enc.Nested(attrTupleOriginal, func(t *netlink.AttributeEncoder) error {
		t.Nested(tupleProto, func(p *netlink.AttributeEncoder) error {
			p.Uint8(protoNumber, uint8(d.protocol))
			return nil
		})
		return nil
	})
	enc.Nested(attrFilter, func(f *netlink.AttributeEncoder) error {
		f.Uint32(filterOriginal, compareProtocol)
		f.Uint32(filterReply, 0)
		return nil
	})
	body, err := enc.Encode()
	return netlink.Message{
		Header: netlink.Header{Type: messageGet, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{d.number(), unix.NFNETLINK_V0, 0, 0}, body...),
	}, err
}

// entry is an entry of the table as the kernel sent it.
type entry struct {
	family          uint8
	original, reply tuple
	// What names the entry when it is deleted, as it came: its original
	// tuple, its zone where it is in one, and its number, so that an entry that
	// took its place is not meant.
	names []netlink.Attribute
	mark  uint32
}

func decodeEntry(data []byte) (entry, error) {
	var e entry
	if len(data) < headerSize {
		return e, unix.EBADMSG
	}
	e.family = data[0]
	dec, err := netlink.NewAttributeDecoder(data[headerSize:])
	if err != nil {
		return e, err
	}
	for dec.Next() {
		switch dec.Type() {
		case attrTupleOriginal:
			e.names = append(e.names, netlink.Attribute{Type: attrTupleOriginal | netlink.Nested, Data: dec.Bytes()})
			dec.Nested(e.original.decode)
		case attrTupleReply:
			dec.Nested(e.reply.decode)
		case attrMark:
			if b := dec.Bytes(); len(b) == 4 {
				e.mark = binary.BigEndian.Uint32(b)
			}
		case attrZone, attrID:
			e.names = append(e.names, netlink.Attribute{Type: dec.Type(), Data: dec.Bytes()})
		}
	}
	return e, dec.Err()
}

func (e entry) deletion() (netlink.Message, error) {
	body, err := netlink.MarshalAttributes(e.names)
	return netlink.Message{
		Header: netlink.Header{Type: messageDelete, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{e.family, unix.NFNETLINK_V0, 0, 0}, body...),
	}, err
}

func (t *tuple) decode(dec *netlink.AttributeDecoder) error {
	var src, dst netip.Addr
	var srcPort, dstPort uint16
	for dec.Next() {
		switch dec.Type() {
		case tupleIP:
			dec.Nested(func(ip *netlink.AttributeDecoder) error {
				src, dst = decodeIP(ip)
				return nil
			})
		case tupleProto:
			dec.Nested(func(p *netlink.AttributeDecoder) error {
				t.protocol, srcPort, dstPort = decodeProto(p)
				return nil
			})
		}
	}
	t.src, t.dst = netip.AddrPortFrom(src, srcPort), netip.AddrPortFrom(dst, dstPort)
	return nil
}

func decodeIP(dec *netlink.AttributeDecoder) (src, dst netip.Addr) {
	for dec.Next() {
		switch dec.Type() {
		case ipV4Src, ipV6Src:
			src, _ = netip.AddrFromSlice(dec.Bytes())
		case ipV4Dst, ipV6Dst:
			dst, _ = netip.AddrFromSlice(dec.Bytes())
		}
	}
	return src, dst
}

// decodeProto leaves the ports 0 where the protocol has none, like ICMP.
func decodeProto(dec *netlink.AttributeDecoder) (protocol inet.Protocol, src, dst uint16) {
	dec.ByteOrder = binary.BigEndian
	for dec.Next() {
		switch dec.Type() {
		case protoNumber:
			protocol = inet.Protocol(dec.Uint8())
		case protoSrcPort:
			src = dec.Uint16()
		case protoDstPort:
			dst = dec.Uint16()
		}
	}
	return protocol, src, dst
}

func bigEndian(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
