package watch

import (
	"bufio"
	"context"
	"net"
	"time"
)

// readAhead is how much is read of a connection at once. The API server sends
// lists in TLS records of 8 KiB, and TLS by itself reads them one by one.
const readAhead = 64 << 10

// dial connects to the API server, with the timeouts of client-go.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &bufferedConn{conn, bufio.NewReaderSize(conn, readAhead)}, nil
}

// bufferedConn reads ahead. It has one reader, as every connection of HTTP has.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

// Read implements net.Conn.
func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
