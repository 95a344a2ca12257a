package watch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// decoder turns one object of the API, as protobuf, into what is kept of it.
type decoder func(object []byte) (runtime.Object, error)

// objectList is a list of the API whose objects were converted one by one while it
// was read: neither its text nor the API's objects are ever there as a whole.
// That is half of the time that a list takes and most of the memory.
type objectList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject is what makes it a runtime.Object. Nobody copies it.
func (l *objectList) DeepCopyObject() runtime.Object { copied := *l; return &copied }

// GetObjectKind is what makes a converted object a runtime.Object: it came out
// of a list of its kind and needs none.
func (c *converted[T]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is what makes it a runtime.Object. Nobody copies it.
func (c *converted[T]) DeepCopyObject() runtime.Object { copied := *c; return &copied }

// protobufMagic begins everything that the API server sends as protobuf
// (k8s.io/apimachinery/pkg/runtime/serializer/protobuf).
var protobufMagic = []byte("k8s\x00")

// The fields of the messages around objects: runtime.Unknown has the list, and
// every list of the API its metadata and its objects.
const (
	unknownRaw   = 2
	listMetadata = 1
	listItem     = 2
)

// The bounds of what is taken for a length: etcd takes objects of 1.5 MiB.
const (
	largestObject = 64 << 20
	largestList   = 1 << 40
)

// listSilence is how long a server may send nothing of a list: longer than it
// would itself go on with a request that gets nowhere (its --request-timeout is
// a minute). HTTP/1.1 has no pings to learn of a connection that is dead.
const listSilence = 90 * time.Second

var errSilent = errors.New("the API server was asked for a list and stopped sending")

// readList reads the answer to a request for a list, which may not be
// interrupted for longer than silence.
func readList(ctx context.Context, r *rest.Request, decode decoder, silence time.Duration) (*objectList, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer silent.Stop()
	list, err := requestList(ctx, r, decode, func() { silent.Reset(silence) })
	if err != nil && context.Cause(ctx) == errSilent {
		return nil, fmt.Errorf("%w for %s", errSilent, silence)
	}
	return list, err
}

// requestList calls alive with everything that comes.
func requestList(ctx context.Context, r *rest.Request, decode decoder, alive func()) (*objectList, error) {
	r.SetHeader("Accept", runtime.ContentTypeProtobuf).SetHeader("Connection", "close")
	body, err := r.Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return decodeList(readerFunc(func(p []byte) (int, error) {
		alive()
		return body.Read(p)
	}), decode)
}

type readerFunc func(p []byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// decodeList reads a list in protobuf.
func decodeList(r io.Reader, decode decoder) (*objectList, error) {
	w := &wire{r: bufio.NewReaderSize(r, 64<<10)}
	if magic, err := w.bytes(len(protobufMagic)); err != nil || !bytes.Equal(magic, protobufMagic) {
		return nil, fmt.Errorf("the list is not protobuf of Kubernetes: %w", cmpErr(err, errFormat))
	}
	var result *objectList
	err := w.fields(func(field, length int) error {
		if field != unknownRaw {
			return w.skip(length)
		}
		result = &objectList{}
		return w.within(length, func(field, length int) error {
			return result.read(w, field, length, decode)
		})
	})
	if err == nil && result == nil {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("list of the API server: %w", err)
	}
	return result, nil
}

// read reads one field of a list.
func (l *objectList) read(w *wire, field, length int, decode decoder) error {
	if field != listMetadata && field != listItem {
		return w.skip(length)
	}
	text, err := w.bytes(length)
	if err != nil {
		return err
	}
	if field == listMetadata {
		return l.ListMeta.Unmarshal(text)
	}
	object, err := decode(text)
	if err != nil {
		return err
	}
	l.Items = append(l.Items, object)
	return nil
}

var errFormat = errors.New("unexpected bytes")

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// wire reads messages of protobuf whose fields all have a length, as those
// around objects do.
type wire struct {
	r    *bufio.Reader
	read int    // bytes so far
	buf  []byte // of bytes
}

// ReadByte is for binary.ReadUvarint.
func (w *wire) ReadByte() (byte, error) {
	w.read++
	return w.r.ReadByte()
}

// bytes are the next ones, until the next call.
func (w *wire) bytes(n int) ([]byte, error) {
	if n > largestObject {
		return nil, errFormat
	}
	if cap(w.buf) < n {
		w.buf = make([]byte, n+n/2)
	}
	w.read += n
	_, err := io.ReadFull(w.r, w.buf[:n])
	return w.buf[:n], err
}

func (w *wire) skip(n int) error {
	w.read += n
	_, err := w.r.Discard(n)
	return err
}

// fields calls fn for each field until the end of the input. fn reads all of
// its field.
func (w *wire) fields(fn func(field, length int) error) error {
	for {
		if _, err := w.r.Peek(1); err == io.EOF {
			return nil
		}
		if err := w.field(fn); err != nil {
			return err
		}
	}
}

// within calls fn for each field of a message of a length.
func (w *wire) within(length int, fn func(field, length int) error) error {
	end := w.read + length
	for w.read < end {
		if err := w.field(fn); err != nil {
			return err
		}
	}
	if w.read != end {
		return errFormat
	}
	return nil
}

func (w *wire) field(fn func(field, length int) error) error {
	const lengthDelimited = 2
	key, err := binary.ReadUvarint(w)
	if err != nil {
		return err
	}
	length, err := binary.ReadUvarint(w)
	if err != nil {
		return err
	}
	if key&7 != lengthDelimited || length > largestList {
		return errFormat
	}
	return fn(int(key>>3), int(length))
}

// The fields of objects of the API: ObjectMeta, and in it who has written
// which part of the object.
const (
	objectMeta    = 1
	managedFields = 17
)

// appendLean appends an object without its managedFields to b: they are often
// the larger part of it, and nobody here reads them. What is not an object
// stays as it is, for whoever decodes it to complain of.
func appendLean(b, object []byte) []byte {
	field, kind, n := protowire.ConsumeTag(object)
	if n < 0 || field != objectMeta || kind != protowire.BytesType {
		return append(b, object...)
	}
	meta, m := protowire.ConsumeBytes(object[n:])
	size := 0
	if m < 0 || !lean(meta, func(field []byte) { size += len(field) }) {
		return append(b, object...)
	}
	b = protowire.AppendTag(b, objectMeta, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	lean(meta, func(field []byte) { b = append(b, field...) })
	return append(b, object[n+m:]...)
}

// lean calls keep for each field of an ObjectMeta but its managedFields. It is
// false if it is none.
func lean(meta []byte, keep func(field []byte)) bool {
	for len(meta) > 0 {
		field, _, n := protowire.ConsumeField(meta)
		if n < 0 {
			return false
		}
		if field != managedFields {
			keep(meta[:n])
		}
		meta = meta[n:]
	}
	return true
}
