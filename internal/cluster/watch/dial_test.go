package watch

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// counted counts the calls of Read.
type counted struct {
	net.Conn
	reads int
}

func (c *counted) Read(p []byte) (int, error) { c.reads++; return c.Conn.Read(p) }

// What comes in many small pieces arrives whole, and what waits is read at once.
func TestReadAhead(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<12) // 64 KiB
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write(sent)
	}()
	conn, err := dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buffered := conn.(*bufferedConn)
	below := &counted{Conn: buffered.Conn}
	buffered.reader.Reset(below)
	var got []byte
	for piece := make([]byte, 512); ; {
		n, err := conn.Read(piece)
		got = append(got, piece[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, sent) {
		t.Error("what arrived is not what was sent")
	}
	if pieces := len(sent) / 512; below.reads > pieces/4 {
		t.Errorf("%d reads of the connection for %d pieces", below.reads, pieces)
	}
}
