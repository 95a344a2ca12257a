package route

import (
	"encoding/binary"
	"syscall"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The kernel passes on what may matter, and no route that is merely added.
func TestFilter(t *testing.T) {
	machine, err := bpf.NewVM(onlyReplaced)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what            string
		kind, flags     uint16
		passes, matters bool
	}{
		{"a new link", unix.RTM_NEWLINK, 0, true, true},
		{"a link that goes", unix.RTM_DELLINK, 0, true, true},
		{"a new address", unix.RTM_NEWADDR, 0, true, true},
		{"an address that goes", unix.RTM_DELADDR, 0, true, true},
		{"a route that goes", unix.RTM_DELROUTE, 0, true, true},
		{"a route that is added", unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_EXCL, false, false},
		{"a route that is added beside another", unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_APPEND, false, false},
		{"a route in the place of another", unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, true, false}, // of ours
	} {
		message := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg)
		binary.NativeEndian.PutUint16(message[4:], c.kind)
		binary.NativeEndian.PutUint16(message[6:], c.flags)
		message[unix.SizeofNlMsghdr+5] = Protocol
		n, err := machine.Run(message)
		if err != nil {
			t.Fatal(err)
		}
		if passes := n > 0; passes != c.passes {
			t.Errorf("%s: passes the filter: %v, want %v", c.what, passes, c.passes)
		}
		if got := matters(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: c.kind, Flags: c.flags}, Data: message[unix.SizeofNlMsghdr:]}); got != c.matters {
			t.Errorf("%s: matters: %v, want %v", c.what, got, c.matters)
		}
	}
}
