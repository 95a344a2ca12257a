package link

import "fmt"

// port is a link as far as bridges are concerned. bridge is the index of the
// one that it is a port of, or 0.
type port struct {
	name   string
	kind   string
	index  int
	bridge int
}

// bridgesOf puts bridges together from all links and their addresses.
func bridgesOf(links []port, addrs []Addr) []Bridge {
	var bridges []Bridge
	for _, l := range links {
		if l.kind != "bridge" {
			continue
		}
		b := Bridge{Name: l.name}
		for _, a := range addrs {
			if a.Index == l.index && !a.Prefix.Addr().IsLinkLocalUnicast() {
				b.Networks = append(b.Networks, a.Prefix.Masked())
			}
		}
		for _, p := range links {
			if p.bridge == l.index && p.kind != "veth" {
				b.Others = append(b.Others, p.name)
			}
		}
		bridges = append(bridges, b)
	}
	return bridges
}

// Bridges implements Interface.
func (k *Kernel) Bridges() ([]Bridge, error) {
	addrs, err := k.Addrs()
	if err != nil {
		return nil, err
	}
	links, err := dump(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("ip link show: %w", err)
	}
	ports := make([]port, len(links))
	for i, l := range links {
		ports[i] = port{l.Attrs().Name, l.Type(), l.Attrs().Index, l.Attrs().MasterIndex}
	}
	return bridgesOf(ports, addrs), nil
}

// Bridges implements Interface.
func (f *Fake) Bridges() ([]Bridge, error) {
	addrs, err := f.Addrs()
	f.mu.Lock()
	defer f.mu.Unlock()
	ports := make([]port, len(f.links))
	for i, l := range f.links {
		ports[i] = port{l.Name, l.kind, l.Index, 0}
		if bridge := f.byName(l.bridge); bridge != nil {
			ports[i].bridge = bridge.Index
		}
	}
	return bridgesOf(ports, addrs), err
}
