// Package cli is the commands beside the agent itself: kube-router status and
// kube-router show, with which people look at the running agent, and kube-router
// migrate.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/kube-router/kube-router/internal/admin"
)

// The exit statuses: all is well; something is wrong, or the agent does not
// answer; a command line that cannot be run.
const (
	exitWell  = 0
	exitWrong = 1
	exitUsage = 2
)

// The forms of output.
const (
	asText = ""
	asWide = "wide"
	asJSON = "json"
)

// commands are the names of the commands.
var commands = [...]string{"status", "show", "migrate"}

// Is says whether a command line is one of these commands.
func Is(args []string) bool { return len(args) > 0 && slices.Contains(commands[:], args[0]) }

// command is one call of a command.
type command struct {
	socket, output string
	help           bool
	args           []string
	out            io.Writer
	paint          painter
	now            time.Time
}

// Run runs a command line that Is holds for, and returns the exit status.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if args[0] == "migrate" {
		return runMigrate(ctx, args[1:], stdout, stderr)
	}
	c := command{out: stdout, paint: newPainter(stdout), now: time.Now()}
	err := c.parse(args[1:])
	if err == nil && c.help {
		fmt.Fprint(stdout, Usage())
		return exitWell
	}
	status := exitWell
	if err == nil {
		switch args[0] {
		case "status":
			status, err = c.status(ctx)
		default:
			err = c.show(ctx)
		}
	}
	if err == nil {
		return status
	}
	return fail(stderr, args[0], err)
}

// fail says what went wrong and returns the exit status.
func fail(stderr io.Writer, name string, err error) int {
	fmt.Fprintf(stderr, "kube-router %s: %v\n", name, err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitWrong
}

// usageError is a command line that cannot be run.
type usageError string

func (e usageError) Error() string { return string(e) }

func (c *command) parse(args []string) error {
	f := pflag.NewFlagSet("kube-router", pflag.ContinueOnError)
	f.Usage = func() {}
	f.StringVarP(&c.output, "output", "o", asText, "")
	f.StringVar(&c.socket, "socket", admin.DefaultSocket, "")
	f.BoolVarP(&c.help, "help", "h", false, "")
	if err := f.Parse(args); err != nil {
		return usageError(printable(err.Error()) + "; 'kube-router --help' lists what there is")
	}
	c.args = f.Args()
	if !slices.Contains([]string{asText, asWide, asJSON}, c.output) {
		return usageError(fmt.Sprintf("--output=%s: allowed are json and wide", printable(c.output)))
	}
	return nil
}

// Usage is the part of the help text about the commands.
func Usage() string {
	return `COMMANDS
    These are run as root on the node where the agent runs; in a cluster:
    kubectl -n kube-system exec <pod> -- kube-router status

    kube-router status [-o json]
        What the agent does, on one screen: its controllers, what is pending and
        why, the BGP peers, and advice. Exit status 1 where something is wrong.
    kube-router show peers|routes|services|policies|sets [-o json|wide]
        The BGP peers; the prefixes that they sent; the Services and policies as
        this node has them; the IP sets.

    -o, --output=json|wide
        JSON, or lines as long as it takes.
    --socket=file  (default ` + admin.DefaultSocket + `)
        The agent's --socket.

` + migrateUsage
}

// showers are what there is to show.
var showers = map[string]func(*command, context.Context) error{
	"peers":    (*command).peers,
	"routes":   (*command).routes,
	"services": (*command).services,
	"policies": (*command).policies,
	"sets":     (*command).sets,
}

func (c *command) show(ctx context.Context) error {
	const what = "peers, routes, services, policies or sets"
	if len(c.args) != 1 {
		return usageError("one of " + what + " must follow")
	}
	show := showers[c.args[0]]
	if show == nil {
		return usageError(printable(c.args[0]) + ": there is nothing such to show; allowed is one of " + what)
	}
	return show(c, ctx)
}

// ask asks for a list and prints it as JSON, or by table.
func ask[T any](ctx context.Context, c *command, what, none string, table func([]T) table) error {
	items, raw, err := admin.Ask[T](ctx, admin.NewClient(c.socket), what)
	switch {
	case err != nil:
		return err
	case c.output == asJSON:
		return c.printJSON(raw)
	case len(items) == 0:
		_, err = fmt.Fprintln(c.out, none)
		return err
	}
	width := columns
	if c.output == asWide {
		width = 0
	}
	_, err = io.WriteString(c.out, table(items).text(width, c.paint))
	return err
}

func (c *command) printJSON(raw json.RawMessage) error {
	var indented bytes.Buffer
	if err := json.Indent(&indented, raw, "", "  "); err != nil {
		return err
	}
	_, err := indented.WriteTo(c.out)
	return err
}
