package ipset

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
)

// bench is what the suite runs on: a fake or a kernel without sets.
type bench struct {
	driver Interface
	// saved is all sets as Save writes them, read by other means than List.
	saved func(t *testing.T) string
	// use makes a rule refer to a set, and returns what removes the rule.
	use func(t *testing.T, set string) (release func())
}

var (
	ipv4 = func(typ Type) Spec { return Spec{Type: typ, Family: inet.IPv4} }
	ipv6 = func(typ Type) Spec { return Spec{Type: typ, Family: inet.IPv6} }
)

func ip(s string) Entry  { return IP(netip.MustParseAddr(s)) }
func net(s string) Entry { return Entry{Prefix: netip.MustParsePrefix(s)} }
func except(s string) Entry {
	e := net(s)
	e.NoMatch = true
	return e
}
func port(p inet.Protocol, s string) Entry { return IPPort(p, netip.MustParseAddrPort(s)) }
func portIP(p inet.Protocol, s, second string) Entry {
	e := port(p, s)
	e.Second = netip.MustParseAddr(second)
	return e
}

func portNet(p inet.Protocol, s, net string) Entry {
	return IPPortNet(p, netip.MustParseAddrPort(s), netip.MustParsePrefix(net))
}
func marked(e Entry, mark, mask uint32) Entry {
	e.Mark, e.Mask = mark, mask
	return e
}

func create(name string, spec Spec) Change { return Change{Op: Create, Name: name, Spec: spec} }
func addTo(name string, e Entry) Change    { return Change{Op: Add, Name: name, Entry: e} }
func del(name string, e Entry) Change      { return Change{Op: Delete, Name: name, Entry: e} }
func destroy(name string) Change           { return Change{Op: Destroy, Name: name} }
func swap(a, b string) Change              { return Change{Op: Swap, Name: a, Other: b} }

// step is a change and what it is refused with.
type step struct {
	Change
	want error
}

func ok(changes ...Change) []step {
	steps := make([]step, len(changes))
	for i, c := range changes {
		steps[i].Change = c
	}
	return steps
}

func refused(c Change, want error) step { return step{c, want} }

var driverCases = []struct {
	name  string
	steps []step
	saved string
}{
	{"every type, IPv4", ok(
		create("t-ip", ipv4(HashIP)), addTo("t-ip", ip("10.0.0.1")), addTo("t-ip", ip("10.0.0.2")),
		create("t-net", ipv4(HashNet)), addTo("t-net", net("10.0.0.0/8")), addTo("t-net", except("10.1.0.0/16")),
		addTo("t-net", net("192.0.2.1/32")),
		create("t-port", ipv4(HashIPPort)), addTo("t-port", port(inet.TCP, "10.0.0.1:80")),
		addTo("t-port", port(inet.UDP, "10.0.0.1:53")), addTo("t-port", port(inet.SCTP, "10.0.0.1:65535")),
		create("t-two", ipv4(HashIPPortIP)), addTo("t-two", portIP(inet.TCP, "10.0.0.1:80", "10.9.0.1")),
	), `create t-ip hash:ip family inet maxelem 1048576
add t-ip 10.0.0.1
add t-ip 10.0.0.2
create t-net hash:net family inet maxelem 1048576
add t-net 10.0.0.0/8
add t-net 10.1.0.0/16 nomatch
add t-net 192.0.2.1
create t-port hash:ip,port family inet maxelem 1048576
add t-port 10.0.0.1,sctp:65535
add t-port 10.0.0.1,tcp:80
add t-port 10.0.0.1,udp:53
create t-two hash:ip,port,ip family inet maxelem 1048576
add t-two 10.0.0.1,tcp:80,10.9.0.1
`},
	{"every type, IPv6", ok(
		create("t-ip", ipv6(HashIP)), addTo("t-ip", ip("2001:db8::1")),
		create("t-net", ipv6(HashNet)), addTo("t-net", net("2001:db8::/32")), addTo("t-net", except("2001:db8:1::/48")),
		addTo("t-net", net("fd00::1/128")), addTo("t-net", net("::/1")), addTo("t-net", net("8000::/1")),
		create("t-port", ipv6(HashIPPort)), addTo("t-port", port(inet.UDP, "[2001:db8::1]:53")),
		create("t-two", ipv6(HashIPPortIP)), addTo("t-two", portIP(inet.SCTP, "[2001:db8::1]:80", "fd00::2")),
	), `create t-ip hash:ip family inet6 maxelem 1048576
add t-ip 2001:db8::1
create t-net hash:net family inet6 maxelem 1048576
add t-net 2001:db8:1::/48 nomatch
add t-net 2001:db8::/32
add t-net 8000::/1
add t-net ::/1
add t-net fd00::1
create t-port hash:ip,port family inet6 maxelem 1048576
add t-port 2001:db8::1,udp:53
create t-two hash:ip,port,ip family inet6 maxelem 1048576
add t-two 2001:db8::1,sctp:80,fd00::2
`},
	{"an address with a port and a net", ok(
		create("t-4", ipv4(HashIPPortNet)), addTo("t-4", portNet(inet.TCP, "10.0.0.1:80", "10.9.0.1/16")),
		addTo("t-4", portNet(inet.TCP, "10.0.0.1:80", "10.9.0.1/32")), addTo("t-4", portNet(inet.UDP, "10.0.0.1:80", "0.0.0.0/1")),
		addTo("t-4", portNet(inet.UDP, "10.0.0.1:80", "10.9.0.0/16")), del("t-4", portNet(inet.UDP, "10.0.0.1:80", "10.9.9.9/16")),
		create("t-6", ipv6(HashIPPortNet)), addTo("t-6", portNet(inet.SCTP, "[2001:db8::1]:80", "fd00::/64")),
	), `create t-4 hash:ip,port,net family inet maxelem 1048576
add t-4 10.0.0.1,tcp:80,10.9.0.0/16
add t-4 10.0.0.1,tcp:80,10.9.0.1
add t-4 10.0.0.1,udp:80,0.0.0.0/1
create t-6 hash:ip,port,net family inet6 maxelem 1048576
add t-6 2001:db8::1,sctp:80,fd00::/64
`},
	{"marks", ok(
		create("t-a", Spec{Type: HashIPPort, Family: inet.IPv4, SkbInfo: true}),
		addTo("t-a", marked(port(inet.TCP, "10.0.0.1:80"), 0x11, 0xffffffff)),
		addTo("t-a", marked(port(inet.TCP, "10.0.0.2:80"), 0x1, 0x3fff)),
		addTo("t-a", marked(port(inet.TCP, "10.0.0.2:80"), 0x1100, 0x3fff)),
		addTo("t-a", marked(port(inet.UDP, "10.0.0.2:80"), 0, 0xff)),
		addTo("t-a", port(inet.TCP, "10.0.0.3:80")),
		addTo("t-a", marked(port(inet.TCP, "10.0.0.4:80"), 1, 1)), del("t-a", port(inet.TCP, "10.0.0.4:80")),
		create("t-b", Spec{Type: HashIPPort, Family: inet.IPv6, SkbInfo: true}),
		addTo("t-b", marked(port(inet.TCP, "[fd00::1]:80"), 0x80000001, 0xffffffff)),
	), `create t-a hash:ip,port family inet maxelem 1048576 skbinfo
add t-a 10.0.0.1,tcp:80 skbmark 0x11
add t-a 10.0.0.2,tcp:80 skbmark 0x1100/0x3fff
add t-a 10.0.0.2,udp:80 skbmark 0x0/0xff
add t-a 10.0.0.3,tcp:80
create t-b hash:ip,port family inet6 maxelem 1048576 skbinfo
add t-b fd00::1,tcp:80 skbmark 0x80000001
`},
	{"what is there already is no error", ok(
		create("t-a", ipv4(HashIP)), create("t-a", ipv4(HashIP)),
		addTo("t-a", ip("10.0.0.1")), addTo("t-a", ip("10.0.0.1")),
		del("t-a", ip("10.0.0.2")), del("t-a", ip("10.0.0.1")), del("t-a", ip("10.0.0.1")),
	), "create t-a hash:ip family inet maxelem 1048576\n"},
	{"host bits of a net are dropped, a net becomes an exception and back", ok(
		create("t-a", ipv4(HashNet)), addTo("t-a", net("10.1.2.3/8")),
		addTo("t-a", net("10.1.0.0/16")), addTo("t-a", except("10.1.0.0/16")),
		addTo("t-a", except("10.2.0.0/16")), addTo("t-a", net("10.2.0.0/16")),
		addTo("t-a", except("10.3.0.0/16")), del("t-a", net("10.3.0.0/16")),
	), `create t-a hash:net family inet maxelem 1048576
add t-a 10.0.0.0/8
add t-a 10.1.0.0/16 nomatch
add t-a 10.2.0.0/16
`},
	{"sets that are not there", []step{
		refused(addTo("t-a", ip("10.0.0.1")), ErrNotExist), refused(del("t-a", ip("10.0.0.1")), ErrNotExist),
		{destroy("t-a"), nil}, refused(swap("t-a", "t-b"), ErrNotExist),
		{create("t-a", ipv4(HashIP)), nil}, refused(swap("t-a", "t-b"), ErrNotExist),
	}, "create t-a hash:ip family inet maxelem 1048576\n"},
	{"a name that is taken", []step{
		{create("t-a", ipv4(HashIP)), nil}, refused(create("t-a", ipv6(HashIP)), ErrExist),
		refused(create("t-a", ipv4(HashNet)), ErrExist),
		refused(create("t-a", Spec{Type: HashIP, Family: inet.IPv4, MaxElem: 5}), ErrExist),
		refused(create("t-a", Spec{Type: HashIP, Family: inet.IPv4, SkbInfo: true}), ErrExist),
	}, "create t-a hash:ip family inet maxelem 1048576\n"},
	{"entries that a set cannot hold, among good ones", []step{
		{create("t-a", ipv4(HashIP)), nil}, {addTo("t-a", ip("10.0.0.1")), nil},
		refused(addTo("t-a", ip("2001:db8::1")), ErrInvalid), refused(addTo("t-a", net("10.0.0.0/24")), ErrInvalid),
		refused(addTo("t-a", ip("0.0.0.0")), ErrInvalid), refused(addTo("t-a", port(inet.TCP, "10.0.0.9:80")), ErrInvalid),
		refused(addTo("t-a", except("10.0.0.5/32")), ErrInvalid), refused(addTo("t-a", Entry{}), ErrInvalid),
		{addTo("t-a", ip("10.0.0.2")), nil},
		{create("t-n", ipv4(HashNet)), nil}, refused(addTo("t-n", net("0.0.0.0/0")), ErrInvalid),
		{addTo("t-n", net("0.0.0.0/1")), nil}, {addTo("t-n", net("128.0.0.0/1")), nil},
		{create("t-n6", ipv6(HashNet)), nil}, refused(addTo("t-n6", net("::/0")), ErrInvalid),
		refused(addTo("t-n6", net("10.0.0.0/8")), ErrInvalid),
		{create("t-p", ipv4(HashIPPort)), nil}, refused(addTo("t-p", ip("10.0.0.1")), ErrInvalid),
		refused(addTo("t-p", portIP(inet.TCP, "10.0.0.1:80", "10.0.0.2")), ErrInvalid),
		{create("t-q", ipv4(HashIPPortIP)), nil}, refused(addTo("t-q", port(inet.TCP, "10.0.0.1:80")), ErrInvalid),
		refused(addTo("t-q", portIP(inet.TCP, "10.0.0.1:80", "2001:db8::1")), ErrInvalid),
		refused(addTo("t-q", portNet(inet.TCP, "10.0.0.1:80", "10.0.0.2/32")), ErrInvalid),
		refused(addTo("t-q", marked(portIP(inet.TCP, "10.0.0.1:80", "10.0.0.2"), 1, 1)), ErrInvalid),
		{create("t-r", ipv4(HashIPPortNet)), nil}, refused(addTo("t-r", portIP(inet.TCP, "10.0.0.1:80", "10.0.0.2")), ErrInvalid),
		refused(addTo("t-r", portNet(inet.TCP, "10.0.0.1:80", "0.0.0.0/0")), ErrInvalid),
	}, `create t-a hash:ip family inet maxelem 1048576
add t-a 10.0.0.1
add t-a 10.0.0.2
create t-n hash:net family inet maxelem 1048576
add t-n 0.0.0.0/1
add t-n 128.0.0.0/1
create t-n6 hash:net family inet6 maxelem 1048576
create t-p hash:ip,port family inet maxelem 1048576
create t-q hash:ip,port,ip family inet maxelem 1048576
create t-r hash:ip,port,net family inet maxelem 1048576
`},
	{"names", []step{
		refused(create("", ipv4(HashIP)), ErrInvalid), refused(destroy(""), ErrInvalid),
		refused(create(strings.Repeat("x", 32), ipv4(HashIP)), ErrInvalid),
		{create("t-"+strings.Repeat("x", 29), ipv4(HashIP)), nil}, {create("inet6:t", ipv6(HashIP)), nil},
		refused(create("t-b", Spec{Type: "bitmap:port", Family: inet.IPv4}), ErrInvalid),
		refused(create("t-b", Spec{Type: HashIP}), ErrInvalid),
		refused(swap("inet6:t", ""), ErrInvalid),
	}, "create inet6:t hash:ip family inet6 maxelem 1048576\n" +
		"create t-" + strings.Repeat("x", 29) + " hash:ip family inet maxelem 1048576\n"},
	{"swap", []step{
		{create("t-a", ipv4(HashIP)), nil}, {addTo("t-a", ip("10.0.0.1")), nil},
		{create("t-b", Spec{Type: HashIP, Family: inet.IPv4, MaxElem: 7}), nil}, {addTo("t-b", ip("10.0.0.2")), nil},
		{swap("t-a", "t-b"), nil},
		{create("t-c", ipv4(HashNet)), nil}, refused(swap("t-a", "t-c"), ErrTypeMismatch),
		{create("t-d", ipv6(HashIP)), nil}, refused(swap("t-a", "t-d"), ErrTypeMismatch),
		{destroy("t-b"), nil},
	}, `create t-a hash:ip family inet maxelem 7
add t-a 10.0.0.2
create t-c hash:net family inet maxelem 1048576
create t-d hash:ip family inet6 maxelem 1048576
`},
	{"added and deleted in one batch, with a bad entry before", []step{
		{create("t-a", ipv4(HashIP)), nil}, {addTo("t-a", ip("10.0.0.1")), nil},
		refused(addTo("t-a", ip("0.0.0.0")), ErrInvalid), {addTo("t-a", ip("10.0.0.2")), nil},
		{del("t-a", ip("10.0.0.2")), nil}, {addTo("t-a", ip("10.0.0.3")), nil}, {del("t-a", ip("10.0.0.1")), nil},
	}, "create t-a hash:ip family inet maxelem 1048576\nadd t-a 10.0.0.3\n"},
}

// runSuite holds a driver to what Interface promises. Each case begins with
// no sets.
func runSuite(t *testing.T, open func(t *testing.T) bench) {
	for _, c := range driverCases {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			var changes []Change
			for _, s := range c.steps {
				changes = append(changes, s.Change)
			}
			for i, err := range b.driver.Apply(changes) {
				if !errors.Is(err, c.steps[i].want) || err != nil && c.steps[i].want == nil {
					t.Errorf("%s: error %v, want %v", changes[i], err, c.steps[i].want)
				}
			}
			if diff := cmp.Diff(c.saved, b.saved(t)); diff != "" {
				t.Errorf("ipset save (-want +got):\n%s", diff)
			}
			listed, err := b.driver.List("t-", "inet6:")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.saved, Save(listed)); diff != "" {
				t.Errorf("List (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a full set", func(t *testing.T) { suiteFull(t, open(t)) })
	t.Run("a set in use", func(t *testing.T) { suiteInUse(t, open(t)) })
	t.Run("many entries", func(t *testing.T) { suiteMany(t, open(t)) })
	t.Run("list by prefix", func(t *testing.T) { suitePrefix(t, open(t)) })
	t.Run("removal", func(t *testing.T) { suiteRemove(t, open(t)) })
}

// suiteFull fills a set to its limit. The kernel may keep a few more than
// MaxElem says (the limit is of a region of the table), but not 100 times.
func suiteFull(t *testing.T, b bench) {
	changes := []Change{create("t-a", Spec{Type: HashIP, Family: inet.IPv4, MaxElem: 2})}
	for i := range 200 {
		changes = append(changes, addTo("t-a", ip(fmt.Sprintf("10.0.1.%d", i+1))))
	}
	full := 0
	for i, err := range b.driver.Apply(changes) {
		if errors.Is(err, ErrFull) {
			full++
		} else if err != nil {
			t.Errorf("%s: %v", changes[i], err)
		}
	}
	if full < 100 {
		t.Errorf("%d of 200 entries were refused by a set of 2", full)
	}
}

func suiteInUse(t *testing.T, b bench) {
	must(t, b.driver, create("t-a", ipv4(HashIP)), addTo("t-a", ip("10.0.0.1")), create("t-b", ipv4(HashIP)))
	release := b.use(t, "t-a")
	if err := b.driver.Apply([]Change{destroy("t-a")})[0]; !errors.Is(err, ErrInUse) {
		t.Errorf("destroying a set in use: error %v, want %v", err, ErrInUse)
	}
	must(t, b.driver, swap("t-b", "t-a"), destroy("t-b"))
	release()
	must(t, b.driver, destroy("t-a"))
	if got := b.saved(t); got != "" {
		t.Errorf("left over:\n%s", got)
	}
}

// suiteMany needs several messages and sends, in both directions, with one bad
// entry in the middle of a set that is swapped in.
func suiteMany(t *testing.T, b bench) {
	const n = 40_000
	changes := []Change{create("t-a", ipv6(HashIPPortIP)), create("t-tmp", ipv6(HashIPPortIP))}
	for i := range n {
		e := portIP(inet.TCP, fmt.Sprintf("[2001:db8::%x:%x]:%d", i>>16, i&0xffff, i%60000), "fd00::1")
		changes = append(changes, addTo("t-tmp", e))
	}
	bad := len(changes) / 2
	changes[bad].Entry.Second = netip.Addr{}
	changes = append(changes, swap("t-tmp", "t-a"), destroy("t-tmp"))
	for i, err := range b.driver.Apply(changes) {
		if (err != nil) != (i == bad) {
			t.Fatalf("change %d, %s: error %v", i, changes[i], err)
		}
	}
	listed, err := b.driver.List("t-")
	if err != nil || len(listed) != 1 || len(listed["t-a"].Entries) != n-1 {
		t.Fatalf("%d sets, %d entries, error %v; want 1, %d", len(listed), len(listed["t-a"].Entries), err, n-1)
	}
}

func suitePrefix(t *testing.T, b bench) {
	must(t, b.driver, create("t-a", ipv4(HashIP)), create("u-a", ipv4(HashIP)), create("t-b", ipv6(HashIP)),
		addTo("t-a", ip("10.0.0.1")), addTo("u-a", ip("10.0.0.1")))
	listed, err := b.driver.List("t-")
	if err != nil {
		t.Fatal(err)
	}
	want := "create t-a hash:ip family inet maxelem 1048576\nadd t-a 10.0.0.1\n" +
		"create t-b hash:ip family inet6 maxelem 1048576\n"
	if diff := cmp.Diff(want, Save(listed)); diff != "" {
		t.Errorf("List(t-) (-want +got):\n%s", diff)
	}
	if listed, err = b.driver.List("v-"); err != nil || len(listed) != 0 {
		t.Errorf("List(v-) = %v, %v", listed, err)
	}
}

func must(t *testing.T, d Interface, changes ...Change) {
	t.Helper()
	if err := errors.Join(d.Apply(changes)...); err != nil {
		t.Fatal(err)
	}
}

// suiteRemove removes an owner's sets, those too that a Sets of the owner was
// just filling, and no other.
func suiteRemove(t *testing.T, b bench) {
	const long = "t-a-long-prefix-of-sets"
	temporary := NewSets(b.driver, long).temporary(long)
	var changes []Change
	for _, name := range []string{"t-a", "t-a2", "inet6:t-a", long, temporary, "t-foreign", "t-a-long-prefix-"} {
		changes = append(changes, create(name, ipv4(HashIP)))
	}
	if err := errors.Join(b.driver.Apply(changes)...); err != nil {
		t.Fatal(err)
	}
	release := b.use(t, "t-a2")
	removed, err := Remove(b.driver, "t-a2", "inet6:t-a", long)
	if failed := SetErrors(err); len(failed) != 1 || !errors.Is(failed["t-a2"], ErrInUse) {
		t.Errorf("a set in use: %v", err)
	}
	if diff := cmp.Diff([]string{"inet6:t-a", long, temporary}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	release()
	if removed, err := Remove(b.driver, "t-a2", "inet6:t-a", long); err != nil || len(removed) != 1 || removed[0] != "t-a2" {
		t.Errorf("the rest: %q, %v", removed, err)
	}
	if removed, err := Remove(b.driver, "t-a2"); err != nil || removed != nil {
		t.Errorf("nothing left: %q, %v", removed, err)
	}
	left, err := b.driver.List("t-", "inet6:")
	if len(left) != 3 || err != nil {
		t.Errorf("left: %s, %v", Save(left), err)
	}
}
