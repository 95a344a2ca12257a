package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// client is a BGP speaker (RFC 4271) of a few lines: it tells one prefix and
// counts those that it is told, until it has as many as it waits for. Its
// session stays up.
type client struct {
	local, reflector netip.Addr
	prefix           netip.Prefix
	wants            int
	told             atomic.Int64
	err              error
	done             chan struct{} // closed with all prefixes, or with err
}

func dial(ctx context.Context, local, reflector netip.Addr, prefix netip.Prefix, wants int) *client {
	c := &client{local: local, reflector: reflector, prefix: prefix, wants: wants, done: make(chan struct{})}
	go c.run(ctx)
	return c
}

// run speaks until the session stays. A reflector does not take a connection
// of a client that it has just been told of.
func (c *client) run(ctx context.Context) {
	var err error
	for deadline := time.Now().Add(within); ctx.Err() == nil && time.Now().Before(deadline) && c.told.Load() == 0; {
		if err = c.speak(ctx); pause(ctx, 100*time.Millisecond) != nil {
			break
		}
	}
	select {
	case <-c.done:
	default:
		c.err = errors.Join(err, ctx.Err())
		close(c.done)
	}
}

// The types of messages.
const (
	msgOpen = iota + 1
	msgUpdate
	msgNotification
	msgKeepalive
)

func (c *client) speak(ctx context.Context) error {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.local, 0))}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(c.reflector, benchPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(c.open()); err != nil {
		return err
	}
	seen, sent := map[netip.Prefix]bool{}, false
	for {
		kind, body, err := readMessage(conn)
		if err != nil {
			return err
		}
		switch kind {
		case msgOpen:
			_, err = conn.Write(message(msgKeepalive, nil))
		case msgKeepalive:
			answer := message(msgKeepalive, nil)
			if !sent {
				answer, sent = append(answer, c.update()...), true
			}
			_, err = conn.Write(answer)
		case msgUpdate:
			err = c.count(seen, body)
		case msgNotification:
			err = fmt.Errorf("notification %v", body)
		}
		if err != nil {
			return err
		}
	}
}

func message(kind byte, body []byte) []byte {
	m := make([]byte, 19, 19+len(body))
	for i := range 16 {
		m[i] = 0xff
	}
	binary.BigEndian.PutUint16(m[16:], uint16(19+len(body)))
	m[18] = kind
	return append(m, body...)
}

func readMessage(r io.Reader) (kind byte, body []byte, err error) {
	header := make([]byte, 19)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint16(header[16:])
	if length < 19 {
		return 0, nil, errors.New("a message that is too short")
	}
	body = make([]byte, length-19)
	_, err = io.ReadFull(r, body)
	return header[18], body, err
}

// holdTime is none, so that there are no keepalives (RFC 4271 section 4.2).
const holdTime = 0

func (c *client) open() []byte {
	body := []byte{4, asn >> 8, asn & 0xff, holdTime >> 8, holdTime & 0xff}
	body = append(body, c.local.AsSlice()...)
	capabilities := []byte{1, 4, 0, 1, 0, 1, 65, 4, 0, 0, asn >> 8, asn & 0xff} // IPv4 unicast, and AS numbers of 32 bits
	body = append(body, byte(2+len(capabilities)), 2, byte(len(capabilities)))
	return message(msgOpen, append(body, capabilities...))
}

func (c *client) update() []byte {
	attributes := []byte{0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4} // origin IGP, an empty path, next hop
	attributes = append(attributes, c.local.AsSlice()...)
	attributes = append(attributes, 0x40, 5, 4, 0, 0, 0, 100)
	body := []byte{0, 0, 0, byte(len(attributes))}
	body = append(body, attributes...)
	return message(msgUpdate, append(append(body, byte(c.prefix.Bits())), c.prefix.Addr().AsSlice()[:3]...))
}

var errUpdate = errors.New("an update that cannot be")

// prefixesOf reads the prefixes that an update tells of (RFC 4271 section 4.3).
func prefixesOf(body []byte) ([]netip.Prefix, error) {
	for range 2 { // withdrawn routes, then attributes
		if len(body) < 2 {
			return nil, errUpdate
		}
		n := 2 + int(binary.BigEndian.Uint16(body))
		if len(body) < n {
			return nil, errUpdate
		}
		body = body[n:]
	}
	var prefixes []netip.Prefix
	for len(body) > 0 {
		bits := int(body[0])
		n := 1 + (bits+7)/8
		if bits > 32 || len(body) < n {
			return nil, errUpdate
		}
		var addr [4]byte
		copy(addr[:], body[1:n])
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4(addr), bits))
		body = body[n:]
	}
	return prefixes, nil
}

func (c *client) count(seen map[netip.Prefix]bool, body []byte) error {
	prefixes, err := prefixesOf(body)
	for _, p := range prefixes {
		if seen[p] || p == c.prefix {
			continue
		}
		seen[p] = true
		if c.told.Add(1) == int64(c.wants) {
			close(c.done)
		}
	}
	return err
}
