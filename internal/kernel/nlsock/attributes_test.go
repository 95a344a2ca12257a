package nlsock

import (
	"bytes"
	"testing"

	"github.com/mdlayher/netlink"
)

// The bytes are those of the library that reads and writes attributes elsewhere.
func TestAttributesAreThoseOfTheLibrary(t *testing.T) {
	for name, test := range map[string]struct {
		ours    func(*Encoder)
		library func(*netlink.AttributeEncoder)
	}{
		"numbers": {
			func(e *Encoder) { e.Put16(1, 0x1234); e.Put32(2, 0x12345678); e.Put16(3, 7) },
			func(e *netlink.AttributeEncoder) { e.Uint16(1, 0x1234); e.Uint32(2, 0x12345678); e.Uint16(3, 7) },
		},
		"bytes of all lengths": {
			func(e *Encoder) { e.Put(4); e.Put(5, 1); e.Put(6, 1, 2, 3, 4); e.Put(7, 1, 2, 3, 4, 5) },
			func(e *netlink.AttributeEncoder) {
				e.Bytes(4, nil)
				e.Bytes(5, []byte{1})
				e.Bytes(6, []byte{1, 2, 3, 4})
				e.Bytes(7, []byte{1, 2, 3, 4, 5})
			},
		},
		"texts": {
			func(e *Encoder) { e.PutString(8, "rr"); e.PutString(9, "wlc"); e.PutString(10, "") },
			func(e *netlink.AttributeEncoder) { e.String(8, "rr"); e.String(9, "wlc"); e.String(10, "") },
		},
		"nested": {
			func(e *Encoder) {
				e.Nest(11, func() { e.Put(12, 1); e.Nest(13, func() { e.Put16(14, 1) }) })
				e.Put(15)
			},
			func(e *netlink.AttributeEncoder) {
				e.Nested(11, func(e *netlink.AttributeEncoder) error {
					e.Bytes(12, []byte{1})
					e.Nested(13, func(e *netlink.AttributeEncoder) error { e.Uint16(14, 1); return nil })
					return nil
				})
				e.Bytes(15, nil)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ours Encoder
			test.ours(&ours)
			library := netlink.NewAttributeEncoder()
			test.library(library)
			want, err := library.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ours.B, want) {
				t.Errorf("% x, want % x", ours.B, want)
			}
		})
	}
}
