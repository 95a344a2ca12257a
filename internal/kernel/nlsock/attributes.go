package nlsock

import "encoding/binary"

// nested marks an attribute that holds attributes (include/uapi/linux/netlink.h).
const nested = 1 << 15

// Encoder appends netlink attributes (struct nlattr) to B.
type Encoder struct{ B []byte }

// Put appends an attribute and what fills it up to four bytes.
func (e *Encoder) Put(kind uint16, data ...byte) {
	e.B = binary.NativeEndian.AppendUint16(e.B, uint16(4+len(data)))
	e.B = binary.NativeEndian.AppendUint16(e.B, kind)
	e.B = append(e.B, data...)
	for len(e.B)%4 != 0 {
		e.B = append(e.B, 0)
	}
}

// PutString appends a text with the zero at its end.
func (e *Encoder) PutString(kind uint16, s string) {
	start := len(e.B)
	e.Put(kind)
	e.B = append(append(e.B, s...), 0)
	binary.NativeEndian.PutUint16(e.B[start:], uint16(len(e.B)-start))
	for len(e.B)%4 != 0 {
		e.B = append(e.B, 0)
	}
}

// Put16 appends a number in the byte order of the host.
func (e *Encoder) Put16(kind, v uint16) {
	e.Put(kind)
	e.B = append(binary.NativeEndian.AppendUint16(e.B, v), 0, 0)
	binary.NativeEndian.PutUint16(e.B[len(e.B)-8:], 4+2)
}

// Put32 appends a number in the byte order of the host.
func (e *Encoder) Put32(kind uint16, v uint32) {
	e.Put(kind)
	e.B = binary.NativeEndian.AppendUint32(e.B, v)
	binary.NativeEndian.PutUint16(e.B[len(e.B)-8:], 4+4)
}

// Nest appends an attribute that holds those that inside appends.
func (e *Encoder) Nest(kind uint16, inside func()) {
	start := len(e.B)
	e.Put(kind | nested)
	inside()
	binary.NativeEndian.PutUint16(e.B[start:], uint16(len(e.B)-start))
}
