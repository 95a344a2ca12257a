package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/kube-router/kube-router/internal/admin"
	"github.com/kube-router/kube-router/internal/cleanup"
	"github.com/kube-router/kube-router/internal/kubeproxy"
)

// migrateUsage is the part of the help text about kube-router migrate.
const migrateUsage = `    kube-router migrate --from=kube-proxy [--apply]
        Tells what a kube-proxy has left on this node that does not run any
        more: chains, IP sets, virtual servers, links, tables of nftables. With
        --apply it removes that, a line for each, and no established connection
        breaks. Where kube-proxy runs it only says how to remove it.

    --apply
        Remove it. Without this, or with --dry-run, nothing is changed.
    --without-agent
        Also where no kube-router serves Services on this node.
    --excluded-cidrs=networks, --service-node-port-range=range
        As the agent has them: virtual servers that stay, and ports.
`

// migration is a call of kube-router migrate.
type migration struct {
	from, nodePorts     string
	apply, dry, without bool
	help                bool
	excluded            []string
	options             cleanup.Options
}

func runMigrate(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var m migration
	err := m.parse(args)
	if err == nil && m.help {
		fmt.Fprint(stdout, Usage())
		return exitWell
	}
	if err == nil {
		err = cleanup.Migrate(ctx, m.options, m.apply, m.without, stdout)
	}
	if err != nil {
		return fail(stderr, "migrate", err)
	}
	return exitWell
}

func (m *migration) parse(args []string) error {
	f := pflag.NewFlagSet("kube-router migrate", pflag.ContinueOnError)
	f.Usage = func() {}
	f.StringVar(&m.from, "from", "", "")
	f.BoolVar(&m.apply, "apply", false, "")
	f.BoolVar(&m.dry, "dry-run", false, "")
	f.BoolVar(&m.without, "without-agent", false, "")
	f.StringSliceVar(&m.excluded, "excluded-cidrs", nil, "")
	f.StringVar(&m.nodePorts, "service-node-port-range", "30000-32767", "")
	f.StringVar(&m.options.Socket, "socket", admin.DefaultSocket, "")
	f.BoolVarP(&m.help, "help", "h", false, "")
	if err := f.Parse(args); err != nil {
		return usageError(printable(err.Error()) + "; 'kube-router --help' lists what there is")
	}
	switch {
	case m.help:
		return nil
	case f.NArg() > 0:
		return usageError(printable(f.Arg(0)) + ": nothing may follow but flags")
	case m.from == "kube-router":
		return usageError("--from=kube-router: nothing to do; an earlier release is replaced as docs/migrate.md says")
	case m.from != "kube-proxy":
		return usageError("--from=kube-proxy must be given; it is all that there is to migrate from")
	case m.apply && m.dry:
		return usageError("--apply and --dry-run exclude each other")
	}
	return m.complete()
}

// complete reads the values that are more than text.
func (m *migration) complete() error {
	m.options.KubeProxy = kubeproxy.ThisHost()
	for _, text := range m.excluded {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return usageError("--excluded-cidrs: " + printable(text) + " is no network, as 10.1.0.0/16 is one")
		}
		m.options.Excluded = append(m.options.Excluded, p.Masked())
	}
	ports, err := parsePorts(m.nodePorts)
	if err != nil {
		return usageError("--service-node-port-range=" + printable(m.nodePorts) + ": " + err.Error())
	}
	m.options.NodePorts = ports
	return nil
}

// parsePorts reads "30000-32767"; a colon does as well.
func parsePorts(text string) (r cleanup.PortRange, err error) {
	from, to, ok := strings.Cut(strings.Replace(text, ":", "-", 1), "-")
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if !ok || err1 != nil || err2 != nil || first == 0 || first > last {
		return r, errors.New("allowed is a range of ports, as 30000-32767")
	}
	return cleanup.PortRange{First: uint16(first), Last: uint16(last)}, nil
}
