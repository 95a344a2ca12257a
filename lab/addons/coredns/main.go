// Command coredns is CoreDNS with only the plugins that a cluster's DNS
// needs. The stock one links the SDKs of every cloud's DNS and takes minutes
// to build.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	// The order in which plugins see a query, as in the stock plugin.cfg.
	dnsserver.Directives = []string{
		"reload", "health", "ready", "errors", "cache", "loadbalance", "loop", "kubernetes", "forward",
	}
	coremain.Run()
}
