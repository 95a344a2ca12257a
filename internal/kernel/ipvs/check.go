package ipvs

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/kube-router/kube-router/internal/inet"
)

// changeError says which change failed, and what to do where that is known.
func changeError(c Change, err error) error {
	if err == nil {
		return nil
	}
	if c.Op == AddServer || c.Op == SetServer {
		if errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("ipvsadm %s: %w (%w %q: load it with modprobe ip_vs_%s)",
				c, err, ErrNoScheduler, c.Config.Scheduler, c.Config.Scheduler)
		}
	}
	return fmt.Errorf("ipvsadm %s: %w", c, err)
}

// check refuses what cannot be written as a message to the kernel.
func check(c Change) error {
	if err := checkID(c.ID); err != nil {
		return err
	}
	switch c.Op {
	case AddServer, SetServer:
		return checkConfig(c)
	case DeleteServer:
		return nil
	case AddReal, SetReal, DeleteReal:
		return checkReal(c)
	}
	return fmt.Errorf("operation %d is none: %w", c.Op, syscall.EINVAL)
}

func checkID(id ID) error {
	if id.Mark != 0 {
		if id.Protocol != 0 || id.Addr.IsValid() || id.Family != inet.IPv4 && id.Family != inet.IPv6 {
			return fmt.Errorf("a firewall mark goes with an address family, and with nothing else: %w", syscall.EINVAL)
		}
		return nil
	}
	switch id.Protocol {
	case inet.TCP, inet.UDP, inet.SCTP:
	default:
		return fmt.Errorf("protocol %s is not one of tcp, udp, sctp: %w", id.Protocol, syscall.EPROTONOSUPPORT)
	}
	if !id.Addr.IsValid() || id.Family != 0 {
		return fmt.Errorf("the virtual server has no address, or a family without a firewall mark: %w", syscall.EINVAL)
	}
	return nil
}

// maxSchedulerName is IP_VS_SCHEDNAME_MAXLEN less the terminating zero.
const maxSchedulerName = 15

func checkConfig(c Change) error {
	if n := len(c.Config.Scheduler); n == 0 || n > maxSchedulerName {
		return fmt.Errorf("a scheduler's name has 1 to %d letters: %w", maxSchedulerName, syscall.EINVAL)
	}
	if c.Config.SchedFlags > SchedFallback|SchedPort|schedFlag3 {
		return fmt.Errorf("a scheduler has three options, not %#b: %w", c.Config.SchedFlags, syscall.EINVAL)
	}
	if c.ID.Mark == 0 && c.ID.Addr.Port() == 0 && c.Config.Persistence == 0 {
		return fmt.Errorf("only a persistent virtual server may have port 0: %w", syscall.EINVAL)
	}
	return nil
}

func checkReal(c Change) error {
	if !c.RealAddr.IsValid() {
		return fmt.Errorf("the real server has no address: %w", syscall.EINVAL)
	}
	mixed := inet.FamilyOf(c.RealAddr.Addr()) != c.ID.family()
	if mixed && (c.Op == DeleteReal || c.Real.Method != Tunnel) {
		return fmt.Errorf("virtual and real server are of different address families: %w", syscall.EINVAL)
	}
	return nil
}
