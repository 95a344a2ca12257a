package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The ways that connections are made: to a Pod that no policy isolates, and to
// one that is isolated and whose last policy allows the client.
const (
	unaffected = "unaffected"
	affected   = "affected"
)

// order is a line to a connecting process: that many connections to a Pod.
type order struct {
	Pair  string `json:"pair"`
	Count int    `json:"count"`
}

// deniedPort is a port that no policy allows; denied marks the connections to
// it.
const (
	deniedPort = firstPort - 1
	denied     = ", denied port"
)

// connector is the process that has a node's network namespace with rules in
// force, a client, and two servers.
type connector struct {
	client  *podNetwork
	servers map[string]unix.SockaddrInet4
	listens map[string]int // file descriptors
}

// serveConnections prepares the network of a layout and then makes the
// connections that it is asked for. Its first answer is the time that
// programming took, the others are the times of connections.
func serveConnections(ctx context.Context, l layout, in io.Reader, out io.Writer) error {
	runtime.LockOSThread() // the thread moves into the client's namespace in the end
	w, client, servers := connectWorkload(l)
	c, err := newConnector(client, servers, firstPort+max(l.perPod, 1)-1)
	if err != nil {
		return err
	}
	took, err := l.program(ctx, w)
	if err != nil {
		return err
	}
	if err := c.client.enter(); err != nil {
		return err
	}
	if err := c.check(l); err != nil {
		return err
	}
	answers := json.NewEncoder(out)
	if err := answers.Encode(took); err != nil {
		return err
	}
	for orders := json.NewDecoder(in); ; {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		times, err := c.connect(o)
		if err != nil {
			return err
		}
		if err := answers.Encode(times); err != nil {
			return err
		}
	}
}

// newConnector makes the namespaces of the client and the servers, and routes
// between them.
func newConnector(client pod, servers map[string]pod, port int) (*connector, error) {
	c := &connector{servers: map[string]unix.SockaddrInet4{}, listens: map[string]int{}}
	if err := setParameter("net/ipv4/ip_forward", "1"); err != nil {
		return nil, err
	}
	var err error
	if c.client, err = newPodNetwork(client.ip, 0); err != nil {
		return nil, err
	}
	for name, p := range servers {
		network, err := newPodNetwork(p.ip, len(c.listens)+1)
		if err != nil {
			return nil, err
		}
		for pair, port := range map[string]int{name: port, name + denied: deniedPort} {
			if c.listens[pair], err = network.listen(p.ip, port); err != nil {
				return nil, err
			}
			c.servers[pair] = unix.SockaddrInet4{Addr: p.ip.As4(), Port: port}
		}
	}
	return c, nil
}

// check makes sure that the rules are in force: what is measured would be fast
// without them.
func (c *connector) check(l layout) error {
	for _, pair := range []string{unaffected, affected} {
		_, err := c.connect(order{pair + denied, 1})
		ok := err == nil
		if pair == affected && l.policies > 0 {
			ok = errors.Is(err, unix.ECONNREFUSED)
		}
		if !ok {
			return fmt.Errorf("%s: connecting to the %s pod at a port that no policy allows: error %v", l.name, pair, err)
		}
	}
	return nil
}

// connectWorkload is the layout's cluster, in which the client and the servers
// are among this node's Pods.
func connectWorkload(l layout) (w *workload, client pod, servers map[string]pod) {
	w = standard(l.policies, max(l.perPod, 1))
	extra := func(namespace, name string, i int, labels map[string]string) pod {
		p := pod{namespace: namespace, name: name, node: localNode, labels: labels, ip: podAddr(0, podsPerNode+i)}
		w.pods = append(w.pods, p)
		return p
	}
	w.namespaces = append(w.namespaces, namespace{"free", nil})
	client = extra(namespaceName(0), "client", 0, map[string]string{"app": "client", "tier": only(l.perPod - 1)})
	servers = map[string]pod{affected: w.pods[0], unaffected: extra("free", "server", 1, map[string]string{"app": "server"})}
	return w, client, servers
}

// connect makes connections one after the other. The handshake needs no other
// process: the kernel of the server answers within the client's system call.
func (c *connector) connect(o order) ([]time.Duration, error) {
	to, listener := c.servers[o.Pair], c.listens[o.Pair]
	times := make([]time.Duration, 0, o.Count)
	for len(times) < o.Count {
		took, err := connectOnce(&to, listener)
		if errors.Is(err, unix.EINTR) {
			continue // a signal of Go's scheduler: another one, from the start
		}
		if err != nil {
			return nil, fmt.Errorf("connecting to the %s pod: %w", o.Pair, err)
		}
		times = append(times, took)
	}
	return times, nil
}

func connectOnce(to *unix.SockaddrInet4, listener int) (time.Duration, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(socket)
	// A reset ends the connection, so that no port is left waiting.
	if err := unix.SetsockoptLinger(socket, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, err
	}
	// No answer is an error after this time.
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := unix.Connect(socket, to); err != nil {
		return 0, err
	}
	took := time.Since(began)
	accepted, _, err := unix.Accept(listener)
	if err != nil {
		return 0, err
	}
	return took, unix.Close(accepted)
}
