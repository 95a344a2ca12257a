package ipvs

import (
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

// Timeouts are the times without a packet after which IPVS forgets a
// connection, in this network namespace: an established TCP connection, one
// that has seen a FIN, and a UDP exchange (ipvsadm --set). The kernel keeps
// whole seconds.
type Timeouts struct{ TCP, TCPFin, UDP time.Duration }

// String is the form of ipvsadm -L --timeout.
func (t Timeouts) String() string {
	return fmt.Sprintf("Timeout (tcp tcpfin udp): %d %d %d", seconds(t.TCP), seconds(t.TCPFin), seconds(t.UDP))
}

// maxTimeout, which flags are held to as well, is less than the kernel takes with the shortest tick it can be
// built with (INT_MAX / HZ seconds, HZ at most 1000).
const maxTimeout = math.MaxInt32 / 1000 * time.Second

func (t Timeouts) check() error {
	for _, d := range [...]time.Duration{t.TCP, t.TCPFin, t.UDP} {
		if d < 0 || d > maxTimeout {
			return fmt.Errorf("a timeout of IPVS is from 1s to %s, not %s: %w", maxTimeout, d, syscall.EINVAL)
		}
	}
	return nil
}

// rounded is what the kernel makes of it.
func (t Timeouts) rounded() Timeouts {
	whole := func(d time.Duration) time.Duration { return time.Duration(seconds(d)) * time.Second }
	return Timeouts{TCP: whole(t.TCP), TCPFin: whole(t.TCPFin), UDP: whole(t.UDP)}
}

// seconds rounds up, so that what is not 0 stays so.
func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }

const (
	cmdSetConfig = 12
	cmdGetConfig = 13

	attrTimeoutTCP    = 4
	attrTimeoutTCPFin = 5
	attrTimeoutUDP    = 6
)

// Timeouts implements Interface.
func (k *Kernel) Timeouts() (t Timeouts, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.query(begin(nil, cmdGetConfig), 0, func(body []byte) error {
		t, err = decodeTimeouts(body)
		return err
	})
	if err != nil {
		return Timeouts{}, fmt.Errorf("ipvsadm -L --timeout: %w", err)
	}
	return t, nil
}

// SetTimeouts implements Interface.
func (k *Kernel) SetTimeouts(t Timeouts) error {
	if err := t.check(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e := begin(nil, cmdSetConfig)
	e.Put32(attrTimeoutTCP, seconds(t.TCP))
	e.Put32(attrTimeoutTCPFin, seconds(t.TCPFin))
	e.Put32(attrTimeoutUDP, seconds(t.UDP))
	err := k.query(e, netlink.Acknowledge, func([]byte) error { return nil })
	if err != nil {
		return fmt.Errorf("ipvsadm --set %d %d %d: %w", seconds(t.TCP), seconds(t.TCPFin), seconds(t.UDP), err)
	}
	return nil
}

func decodeTimeouts(data []byte) (t Timeouts, err error) {
	const header = 4 // of generic netlink
	if len(data) < header {
		return Timeouts{}, fmt.Errorf("%w: %d bytes", errMalformed, len(data))
	}
	ad, err := netlink.NewAttributeDecoder(data[header:])
	if err != nil {
		return Timeouts{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	for ad.Next() {
		var to *time.Duration
		switch ad.Type() {
		case attrTimeoutTCP:
			to = &t.TCP
		case attrTimeoutTCPFin:
			to = &t.TCPFin
		case attrTimeoutUDP:
			to = &t.UDP
		default:
			continue
		}
		*to = time.Duration(ad.Uint32()) * time.Second
	}
	if err := ad.Err(); err != nil {
		return Timeouts{}, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return t, nil
}
