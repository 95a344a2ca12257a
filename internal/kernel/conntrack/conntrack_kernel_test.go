//go:build kernel

package conntrack

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

func fresh(t *testing.T) system {
	nstest.New(t)
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return system{Interface: k, add: insert, text: func() string { return listed(t) }}
}

func TestKernel(t *testing.T) { suite(t, fresh) }

// insert makes an entry with conntrack -I.
func insert(e Entry) error {
	args := []string{"-I", "-p", e.Protocol.String(), "-t", "600", "-u", "SEEN_REPLY",
		"-s", e.From.Addr().String(), "-d", e.To.Addr().String(),
		"--sport", fmt.Sprint(e.From.Port()), "--dport", fmt.Sprint(e.To.Port()),
		"-r", e.ReplyFrom.Addr().String(), "-q", e.ReplyTo.Addr().String(),
		"--reply-port-src", fmt.Sprint(e.ReplyFrom.Port()), "--reply-port-dst", fmt.Sprint(e.ReplyTo.Port())}
	if e.Protocol != inet.UDP {
		args = append(args, "--state", "ESTABLISHED")
	}
	if e.Protocol == inet.SCTP {
		args = append(args, "--orig-vtag", "1", "--reply-vtag", "2")
	}
	if out, err := exec.Command("conntrack", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("conntrack %q: %w\n%s", args, err, out)
	}
	return nil
}

// The kernel picks the protocol, so that a node with many TCP connections does
// not send them all for one UDP flow.
func TestTheKernelFilters(t *testing.T) {
	s := fresh(t)
	mustAdd(t, s, entryOf(inet.TCP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353"))
	mustAdd(t, s, entryOf(inet.UDP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353"))
	mustAdd(t, s, entryOf(inet.UDP, "10.0.0.2:4001", "10.96.0.10:53", "10.96.0.10:53"))
	mustAdd(t, s, entryOf(inet.UDP, "[fd00::2]:4000", "[fd00:96::10]:53", "[fd00:1::2]:5353"))
	for family, want := range map[inet.Family]int{inet.IPv4: 2, inet.IPv6: 1} {
		request, err := dump{inet.UDP, family}.message()
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Interface.(*Kernel).execute(request)
		if err != nil || len(got) != want {
			t.Errorf("%s: %d entries, %v, want %d", family, len(got), err, want)
		}
	}
}

// An entry that took the place of the one that was read, and so has another
// number, is not deleted in its stead.
func TestAnotherEntryTookThePlace(t *testing.T) {
	s := fresh(t)
	e := entryOf(inet.UDP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353")
	mustAdd(t, s, e)
	k := s.Interface.(*Kernel)
	request, err := dump{inet.UDP, inet.IPv4}.message()
	if err != nil {
		t.Fatal(err)
	}
	messages, err := k.execute(request)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d entries, %v", len(messages), err)
	}
	read, err := decodeEntry(messages[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	for _, attr := range read.names {
		if attr.Type == attrID {
			attr.Data[0]++
		}
	}
	if err := k.deleteEntry(read); !errors.Is(err, unix.ENOENT) {
		t.Errorf("deleting what is gone: %v, want ENOENT", err)
	}
	if got := s.text(); got != e.String()+"\n" {
		t.Errorf("left:\n%s", got)
	}
}

// An entry in a zone is named with it.
func TestZone(t *testing.T) {
	s := fresh(t)
	nstest.Run(t, "conntrack", "-I", "-p", "udp", "-t", "600", "-s", "10.0.0.2", "-d", "10.96.0.10", "--sport", "4000", "--dport", "53",
		"-r", "10.244.1.2", "-q", "10.0.0.2", "--reply-port-src", "5353", "--reply-port-dst", "4000", "-w", "7")
	if n, err := s.Delete([]Flow{flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353")}); n != 1 || err != nil {
		t.Errorf("Delete = %d, %v", n, err)
	}
	if got := s.text(); got != "" {
		t.Errorf("left:\n%s", got)
	}
}

// A socket that fails is replaced.
func TestLostSocket(t *testing.T) {
	s := fresh(t)
	mustAdd(t, s, entryOf(inet.UDP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353"))
	flows := []Flow{flowOf(inet.UDP, "10.96.0.10:53", "10.244.1.2:5353")}
	s.Interface.(*Kernel).conn.Close()
	if _, err := s.Delete(flows); err == nil {
		t.Error("Delete on a closed socket succeeded")
	}
	if n, err := s.Delete(flows); n != 1 || err != nil {
		t.Errorf("Delete = %d, %v", n, err)
	}
}

// The socket for marks is replaced too; and an entry that ends while it is
// looked at is no error.
func TestMarksOfWhatEnds(t *testing.T) {
	s := fresh(t)
	mustAdd(t, s, entryOf(inet.UDP, "10.0.0.2:4000", "10.96.0.10:53", "10.244.1.2:5353"))
	all := func(Entry) bool { return true }
	k := s.Interface.(*Kernel)
	if did, err := k.Mark(inet.IPv4, 1, all); did.Added != 1 || err != nil {
		t.Fatalf("%+v, %v", did, err)
	}
	k.bulk.Close()
	if _, err := k.Mark(inet.IPv4, 1, all); err == nil {
		t.Error("Mark on a closed socket succeeded")
	}
	did, err := k.Mark(inet.IPv4, 1, func(Entry) bool {
		nstest.Run(t, "conntrack", "-D", "-p", "udp")
		return false
	})
	if did != (Marks{}) || err != nil {
		t.Errorf("%+v, %v", did, err)
	}
}
