package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is how a flag's value is read and shown. The error of parse says what
// is wrong with the value and what is allowed.
type kind[T any] struct {
	// name stands for the value in the help text.
	name   string
	parse  func(string) (T, error)
	format func(T) string
}

// value is a pflag.Value of any kind.
type value[T any] struct {
	p    *T
	kind kind[T]
}

func (v *value[T]) Type() string   { return v.kind.name }
func (v *value[T]) String() string { return v.kind.format(*v.p) }

func (v *value[T]) Set(s string) error {
	parsed, err := v.kind.parse(s)
	if err != nil {
		return err
	}
	*v.p = parsed
	return nil
}

func sprintf(format string, a ...any) string { return fmt.Sprintf(format, a...) }

func asIs(s string) string { return s }

func text(name string) kind[string] {
	return kind[string]{name, func(s string) (string, error) { return s, nil }, asIs}
}

func onOff() kind[bool] {
	return kind[bool]{"true|false", func(s string) (bool, error) {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return false, errors.New("allowed are true and false")
		}
		return b, nil
	}, strconv.FormatBool}
}

func level() kind[int] {
	return kind[int]{"level", func(s string) (int, error) {
		n, err := strconv.ParseUint(s, 10, 8)
		if err != nil {
			return 0, errors.New("not a verbosity; allowed are 0 to 255 (and a long name takes two dashes)")
		}
		return int(n), nil
	}, strconv.Itoa}
}

// period reads a duration of at least shortest.
func period(shortest time.Duration) kind[time.Duration] {
	return kind[time.Duration]{"duration", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, errors.New("not a duration; allowed is a number with a unit, such as 30s or 5m")
		}
		if d < shortest {
			return 0, fmt.Errorf("too short; allowed is %v or more", shortest)
		}
		return d, nil
	}, formatDuration}
}

// longestTimeout is what every kernel takes for a connection of IPVS: it counts
// ticks in 31 bits, of which there are at most 1000 a second.
const longestTimeout = math.MaxInt32 / 1000 * time.Second

// idleTimeout reads a timeout of IPVS.
func idleTimeout() kind[time.Duration] {
	return kind[time.Duration]{"duration", func(s string) (time.Duration, error) {
		d, err := period(0).parse(s)
		if err == nil && d > longestTimeout {
			err = fmt.Errorf("longer than the kernel can wait; allowed are 0s to %v", longestTimeout)
		}
		return d, err
	}, formatDuration}
}

// restartTime reads the restart time of graceful restart, which BGP carries as
// seconds in 12 bits (RFC 4724, section 3).
func restartTime() kind[time.Duration] {
	return kind[time.Duration]{"duration", func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < time.Second || d > 4095*time.Second || d%time.Second != 0 {
			return 0, errors.New("not a restart time; allowed are whole seconds, 1s to 4095s (RFC 4724)")
		}
		return d, nil
	}, formatDuration}
}

// formatDuration writes 5m0s as 5m, as people do.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func parsePort(s string, lowest uint16) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < uint64(lowest) {
		return 0, fmt.Errorf("not a port; allowed are %d to 65535", lowest)
	}
	return uint16(n), nil
}

func formatPort(p uint16) string { return strconv.Itoa(int(p)) }

func port() kind[uint16] {
	return kind[uint16]{"port", func(s string) (uint16, error) { return parsePort(s, 1) }, formatPort}
}

func portOrOff() kind[uint16] {
	return kind[uint16]{"port", func(s string) (uint16, error) {
		n, err := parsePort(s, 0)
		if err != nil {
			return 0, fmt.Errorf("%w, and 0 turns it off", err)
		}
		return n, nil
	}, formatPort}
}

func portRange() kind[PortRange] {
	return kind[PortRange]{"first-last", func(s string) (PortRange, error) {
		bad := errors.New("not a range of ports; allowed is first-last within 1 to 65535, such as 30000-32767")
		from, to, ok := strings.Cut(strings.Replace(s, ":", "-", 1), "-")
		first, err1 := parsePort(from, 1)
		last, err2 := parsePort(to, 1)
		if !ok || err1 != nil || err2 != nil || first > last {
			return PortRange{}, bad
		}
		return PortRange{first, last}, nil
	}, PortRange.String}
}

// privateASN reads an AS number that RFC 6996 reserves for private use. The
// last one of each of its ranges is reserved for other things (RFC 7300).
func privateASN() kind[uint32] {
	return kind[uint32]{"asn", func(s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		private := n >= 64512 && n <= 65534 || n >= 4200000000 && n <= 4294967294
		if err != nil || !private {
			return 0, errors.New("not a private AS number; allowed are 64512 to 65534 and 4200000000 to 4294967294 (RFC 6996)")
		}
		return uint32(n), nil
	}, func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }}
}

// routerID is the value of --router-id.
type routerID struct {
	addr     netip.Addr
	generate bool
}

// bgpIdentifier reads a BGP identifier, which is written as an IPv4 address
// and is not zero (RFC 6286).
func bgpIdentifier() kind[routerID] {
	return kind[routerID]{"address", func(s string) (routerID, error) {
		switch s {
		case "":
			return routerID{}, nil
		case "generate":
			return routerID{generate: true}, nil
		}
		addr, err := netip.ParseAddr(s)
		if err != nil || !addr.Is4() || addr.IsUnspecified() {
			return routerID{}, errors.New("not a router ID; allowed are an IPv4 address other than 0.0.0.0, and 'generate'")
		}
		return routerID{addr: addr}, nil
	}, formatRouterID}
}

func formatRouterID(id routerID) string {
	switch {
	case id.generate:
		return "generate"
	case id.addr.IsValid():
		return id.addr.String()
	}
	return ""
}

func listenIP() kind[string] {
	return kind[string]{"address", func(s string) (string, error) {
		if s == "" {
			return "", nil
		}
		addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
		if err != nil {
			return "", errors.New("not an IP address; allowed are one such as 127.0.0.1 or ::1, and none at all for all addresses")
		}
		return addr.String(), nil
	}, asIs}
}

func serverURL() kind[string] {
	return kind[string]{"url", func(s string) (string, error) {
		if s == "" {
			return "", nil
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return "", errors.New("not the URL of a server; allowed is one such as https://10.0.0.1:6443")
		}
		return s, nil
	}, asIs}
}

func urlPath() kind[string] {
	return kind[string]{"path", func(s string) (string, error) {
		const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./"
		if !strings.HasPrefix(s, "/") || path.Clean(s) != s || strings.Trim(s, letters) != "" {
			return "", errors.New("not a path; allowed is one such as /metrics, of letters, digits, '-', '_', '.' and '/'")
		}
		return s, nil
	}, asIs}
}

func scheduler() kind[string] {
	return kind[string]{"name", func(s string) (string, error) {
		allowed := []string{"rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh"}
		if !slices.Contains(allowed, s) {
			return "", fmt.Errorf("not an IPVS scheduler; allowed are %s", strings.Join(allowed, ", "))
		}
		return s, nil
	}, asIs}
}

func newPods() kind[NewPods] {
	return kind[NewPods]{"selected|closed|open", func(s string) (NewPods, error) {
		if mode := NewPods(s); mode == NewPodsSelected || mode == NewPodsClosed || mode == NewPodsOpen {
			return mode, nil
		}
		return "", errors.New("not a mode; allowed are selected, closed and open")
	}, func(m NewPods) string { return string(m) }}
}
