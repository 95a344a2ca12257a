package link

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/kernel/module"
)

// From linux/fou.h. The library that writes links always sends a protocol
// number as well, which kernels since 6.0 refuse.
const (
	fouFamily  = "fou"
	fouVersion = 1
	fouAdd     = 1
	fouDelete  = 2
	fouPort    = 1
	fouAF      = 2
	fouType    = 4
)

// gueFamily is the address family that a kind's packets are wrapped in, and
// the kernel module for its Generic UDP Encapsulation.
func gueFamily(kind TunnelKind) (family uint8, name string) {
	if kind == IP6IP6 {
		return unix.AF_INET6, "fou6"
	}
	return unix.AF_INET, "fou"
}

// openGUE opens the port where packets of a Tunnel with UDP arrive, if it is
// not open. Tunnels of one family share it.
func openGUE(t Tunnel) (changed bool, err error) {
	family, name := gueFamily(t.Kind)
	if err := module.Load("fou", name); err != nil {
		return false, fmt.Errorf("tunnel %s: %w", t.Name(), err)
	}
	err = askFOU(fouAdd, family, t.Port)
	switch {
	case errors.Is(err, syscall.EALREADY) || errors.Is(err, syscall.EADDRINUSE) && isGUE(family, t.Port):
		return false, nil
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("another program has it; choose one with --overlay-encap-port: %w", err)
	}
	if err != nil {
		return false, fmt.Errorf("ip fou add port %d gue: %w", t.Port, err)
	}
	return true, nil
}

func closeGUE(family uint8, port uint16) error {
	err := askFOU(fouDelete, family, port)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return nil // it is not open
	}
	return err
}

// askFOU opens or closes a port.
func askFOU(command uint8, family uint8, port uint16) error {
	return withFOU(func(conn *genetlink.Conn, id uint16) error {
		e := netlink.NewAttributeEncoder()
		e.Bytes(fouPort, []byte{byte(port >> 8), byte(port)})
		e.Uint8(fouAF, family)
		if command == fouAdd {
			e.Uint8(fouType, encapGUE)
		}
		data, err := e.Encode()
		if err != nil {
			return err
		}
		_, err = conn.Execute(genetlink.Message{Header: genetlink.Header{Command: command, Version: fouVersion}, Data: data},
			id, netlink.Request|netlink.Acknowledge)
		return err
	})
}

// isGUE says whether a port is open for Generic UDP Encapsulation.
func isGUE(family uint8, port uint16) bool {
	const get = 3
	found := false
	_ = withFOU(func(conn *genetlink.Conn, id uint16) error {
		list, err := conn.Execute(genetlink.Message{Header: genetlink.Header{Command: get, Version: fouVersion}},
			id, netlink.Request|netlink.Dump)
		for _, m := range list {
			found = found || describes(m.Data, family, port)
		}
		return err
	})
	return found
}

// describes says whether the kernel tells about a port that is open for Generic
// UDP Encapsulation.
func describes(message []byte, family uint8, port uint16) bool {
	attributes, err := netlink.UnmarshalAttributes(message)
	have := map[uint16][]byte{}
	for _, a := range attributes {
		have[a.Type] = a.Data
	}
	return err == nil && string(have[fouPort]) == string([]byte{byte(port >> 8), byte(port)}) &&
		string(have[fouAF]) == string([]byte{family}) && string(have[fouType]) == string([]byte{encapGUE})
}

func withFOU(do func(conn *genetlink.Conn, id uint16) error) error {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	family, err := conn.GetFamily(fouFamily)
	if err != nil {
		return err
	}
	return do(conn, family.ID)
}
