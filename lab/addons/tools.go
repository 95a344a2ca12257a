//go:build tools

// Package addons builds what the lab's clusters run besides Kubernetes itself:
// CoreDNS and the CNI plugins. They have a module of their own because their
// dependencies would lift those of Kubernetes, which builds reliably only with
// the versions it was released with.
package addons

import (
	_ "github.com/containernetworking/plugins/plugins/ipam/host-local"
	_ "github.com/containernetworking/plugins/plugins/main/bridge"
	_ "github.com/containernetworking/plugins/plugins/main/loopback"
	_ "github.com/containernetworking/plugins/plugins/meta/portmap"
)
