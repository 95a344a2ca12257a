package ipset

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mdlayher/netlink"
)

// group is consecutive changes that go in one message.
type group struct {
	op      Op
	name    string
	indices []int // of the changes
	entries []Entry
	message netlink.Message
}

// Apply implements Interface. Consecutive additions to a set, or deletions
// from it, share a message, and many messages a send. A message stops at its
// first bad entry: then its changes, and the later ones of that set in the
// same send, are repeated one a message, so that each has its own error.
func (k *Kernel) Apply(changes []Change) []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := batch{kernel: k, changes: changes, errs: make([]error, len(changes))}
	for i := range changes {
		b.add(i)
	}
	b.flush()
	return b.errs
}

// batch is the changes of an Apply on their way.
type batch struct {
	kernel  *Kernel
	changes []Change
	errs    []error
	groups  []group
	bytes   int
	filled  map[string]bool // sets with entries in groups
}

func (b *batch) add(i int) {
	c := b.changes[i]
	if err := checkName(c.Name); err != nil {
		b.errs[i] = c.wrap(err)
		return
	}
	switch c.Op {
	case Add, Delete:
		b.addEntry(i, c)
	default:
		b.addCommand(i, c)
	}
}

// addCommand appends a change that has a message of its own. Where it disposes
// of a set with entries on the way, they are sent before, since they may have
// to be repeated.
func (b *batch) addCommand(i int, c Change) {
	var err error
	switch c.Op {
	case Create:
		err = c.Spec.check()
	case Swap:
		err = checkName(c.Other)
	}
	if err != nil {
		b.errs[i] = c.wrap(err)
		return
	}
	if b.filled[c.Name] || b.filled[c.Other] {
		b.flush()
	}
	switch c.Op {
	case Create:
		b.kernel.specs[c.Name] = c.Spec
	case Destroy:
		delete(b.kernel.specs, c.Name)
	}
	command, payload := c.encode()
	flags := netlink.Acknowledge
	if c.Op == Create {
		flags |= netlink.Excl
	}
	b.push(group{op: c.Op, name: c.Name, indices: []int{i}, message: request(command, flags, payload)})
}

// addEntry appends an entry to the last group if that is of its kind.
func (b *batch) addEntry(i int, c Change) {
	e, err := b.normalize(c)
	if err != nil {
		b.errs[i] = c.wrap(err)
		return
	}
	if n := len(b.groups) - 1; n >= 0 {
		last := &b.groups[n]
		if last.op == c.Op && last.name == c.Name && len(last.indices) < entriesPerMessage {
			last.indices = append(last.indices, i)
			last.entries = append(last.entries, e)
			b.bytes += entryBytes
			return
		}
	}
	b.push(group{op: c.Op, name: c.Name, indices: []int{i}, entries: []Entry{e}})
	if b.filled == nil {
		b.filled = map[string]bool{}
	}
	b.filled[c.Name] = true
}

// normalize checks an entry against the set it goes to. The kernel would take
// a net for a set of addresses as all of its addresses, and ignore a port
// where there is no place for it.
func (b *batch) normalize(c Change) (Entry, error) {
	spec, known := b.kernel.specs[c.Name]
	if !known {
		b.flush()
		var err error
		if spec, err = b.kernel.lookUp(c.Name); err != nil {
			return Entry{}, err
		}
	}
	if !spec.Type.known() {
		return Entry{}, fmt.Errorf("%w: entry of a set of type %s", ErrInvalid, spec.Type)
	}
	return spec.normalize(c.Entry)
}

func (b *batch) push(g group) {
	if len(b.groups) >= messagesPerSend || b.bytes >= bytesPerSend {
		b.flush()
	}
	b.groups = append(b.groups, g)
	b.bytes += entryBytes
}

// flush sends the groups, and repeats what has to be.
func (b *batch) flush() {
	groups := b.groups
	b.groups, b.bytes, b.filled = nil, 0, nil
	results := b.kernel.send(groups)
	repeat := map[string]bool{}
	var again []group
	for g, err := range results {
		group := groups[g]
		if group.entries != nil && (repeat[group.name] || err != nil && len(group.entries) > 1) {
			repeat[group.name] = true
			again = append(again, group.split()...)
			continue
		}
		b.settle(group, b.judge(group, err))
	}
	for len(again) > 0 {
		n := min(len(again), messagesPerSend)
		for g, err := range b.kernel.send(again[:n]) {
			b.settle(again[g], err)
		}
		again = again[n:]
	}
}

// judge makes an error of what the kernel said to a command. Without EXCL the
// kernel takes a set of the other family for the same, so it is asked with
// EXCL, and a set that exists is compared here; and kernels differ in whether
// destroying what is not there is an error.
func (b *batch) judge(g group, err error) error {
	switch {
	case g.op == Destroy && errors.Is(err, ErrNotExist):
		return nil
	case g.op == Create && errors.Is(err, ErrExist):
		spec, lookErr := b.kernel.spec(g.name)
		if lookErr == nil && spec == b.changes[g.indices[0]].Spec.withDefaults() {
			return nil
		}
		return errors.Join(err, lookErr)
	}
	return err
}

func (g group) split() []group {
	single := make([]group, len(g.indices))
	for n := range g.indices {
		single[n] = group{op: g.op, name: g.name, indices: g.indices[n : n+1], entries: g.entries[n : n+1]}
	}
	return single
}

func (b *batch) settle(g group, err error) {
	for _, i := range g.indices {
		b.errs[i] = b.changes[i].wrap(err)
	}
	if err != nil {
		delete(b.kernel.specs, g.name) // perhaps not what we took it for
	}
}

// send sends groups at once and returns one error each. The kernel answers
// each message, in order.
func (k *Kernel) send(groups []group) []error {
	if len(groups) == 0 {
		return nil
	}
	errs := make([]error, len(groups))
	messages := make([]netlink.Message, len(groups))
	for i, g := range groups {
		messages[i] = g.message
		if g.entries != nil {
			command := uint16(cmdAdd)
			if g.op == Delete {
				command = cmdDel
			}
			messages[i] = request(command, netlink.Acknowledge, encodeEntries(g.name, g.entries))
		}
	}
	if _, err := k.conn.SendMessages(messages); err != nil {
		for i := range errs {
			errs[i] = fmt.Errorf("sending to the kernel: %w", err)
		}
		return errs
	}
	for i := range groups {
		_, err := k.conn.Receive()
		if errors.Is(err, syscall.ENOBUFS) {
			// Answers are lost, and with them whose answer the next one is.
			k.drain()
			for ; i < len(errs); i++ {
				errs[i] = fmt.Errorf("the kernel's answer is lost: %w", err)
			}
			return errs
		}
		errs[i] = translate(err)
	}
	return errs
}
