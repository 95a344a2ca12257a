package nlsock

import (
	"encoding/binary"
	"fmt"
)

// nested marks an attribute that holds attributes, and typeMask is what of its
// kind is no such flag (include/uapi/linux/netlink.h).
const (
	nested   = 1 << 15
	typeMask = 1<<14 - 1
)

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

// Attributes calls fn with each netlink attribute of b, its kind without flags.
// Data is valid as long as b is.
func Attributes(b []byte, fn func(kind uint16, data []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return fmt.Errorf("attribute header: %w", ErrMalformed)
		}
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) & typeMask
		if size < 4 || size > len(b) {
			return fmt.Errorf("attribute %d of %d bytes, %d are left: %w", kind, size, len(b), ErrMalformed)
		}
		if err := fn(kind, b[4:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}
