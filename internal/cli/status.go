package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/admin"
)

// The most entries of each part, so that all of it is one screen; advice, which
// is the last, gets the lines that are left.
const (
	mostPeers   = 6
	mostPending = 4
	mostWrong   = 4
	mostLines   = 49
)

// status prints the Status. The exit status is 1 where something is wrong.
func (c *command) status(ctx context.Context) (int, error) {
	if len(c.args) > 0 {
		return exitUsage, usageError("unexpected argument " + printable(c.args[0]))
	}
	s, raw, err := admin.NewClient(c.socket).Status(ctx)
	if err != nil {
		return exitWrong, err
	}
	if c.output == asJSON {
		err = c.printJSON(raw)
	} else {
		_, err = io.WriteString(c.out, c.screen(s))
	}
	if len(s.Wrong) > 0 {
		return exitWrong, err
	}
	return exitWell, err
}

// screen is the Status as text.
func (c *command) screen(s admin.Status) string {
	var b strings.Builder
	c.head(&b, s)
	b.WriteString("\n" + c.controllers(s).text(columns, c.paint))
	c.pending(&b, s)
	c.neighbours(&b, s)
	c.advice(&b, s)
	return b.String()
}

func (c *command) title(b *strings.Builder, title string) {
	b.WriteString("\n" + c.paint.paint(title, bold) + "\n")
}

// head says who speaks, and what is wrong.
func (c *command) head(b *strings.Builder, s admin.Status) {
	b.WriteString(fit(printable(fmt.Sprintf("kube-router %s on %s, up %s", s.Version, s.Node, age(s.Started, c.now))), columns) + "\n")
	if len(s.Wrong) == 0 {
		b.WriteString(c.paint.paint("all is well", green) + "\n")
		return
	}
	for _, wrong := range s.Wrong[:min(len(s.Wrong), mostWrong)] {
		b.WriteString(c.paint.paint(strings.TrimRight(brief("wrong: "+wrong, 0), "\n"), red) + "\n")
	}
	if more := len(s.Wrong) - mostWrong; more > 0 {
		fmt.Fprintf(b, "and %d more: kube-router status -o json\n", more)
	}
}

// stateColours are those of the states of a controller.
var stateColours = map[string]colour{
	admin.Running: green, admin.Starting: yellow, admin.Stuck: red,
}

func (c *command) controllers(s admin.Status) table {
	t := table{row("CONTROLLER", "STATE", "LAST SYNC", "PENDING", "IN THE KERNEL")}
	for _, x := range s.Controllers {
		var objects []string
		for _, o := range x.Objects {
			count := fmt.Sprintf("%d of %d", o.Programmed, o.Desired)
			if o.Programmed == o.Desired {
				count = fmt.Sprint(o.Desired)
			}
			objects = append(objects, count+" "+strings.ReplaceAll(o.Kind, "_", " "))
		}
		last, pending := age(x.LastSync, c.now), fmt.Sprint(x.PendingCount)
		if !x.LastSync.IsZero() {
			last += " ago"
		}
		if x.State == admin.Off {
			last, pending = "", ""
		}
		line := row(x.Name, x.State, last, pending, cmp.Or(strings.Join(objects, ", "), x.Reason))
		line[1].colour = stateColours[x.State]
		t = append(t, line)
	}
	return t
}

// pending lists what is not done and has been tried, longest first.
func (c *command) pending(b *strings.Builder, s admin.Status) {
	type pending struct {
		controller string
		admin.Pending
	}
	var list []pending
	total := 0
	for _, x := range s.Controllers {
		total += x.PendingCount
		for _, p := range x.Pending {
			if p.Reason != "" {
				list = append(list, pending{x.Name, p})
			}
		}
	}
	if len(list) == 0 {
		return
	}
	slices.SortStableFunc(list, func(a, b pending) int { return a.Since.Compare(b.Since) })
	c.title(b, "PENDING")
	shown := list[:min(len(list), mostPending)]
	for _, p := range shown {
		text := fmt.Sprintf("%s: %s, for %s, %s", p.controller, p.What, age(p.Since, c.now), plural(p.Attempts, "attempt"))
		if p.Failed {
			text = c.paint.paint(fit(printable(text), columns), red)
		} else {
			text = fit(printable(text), columns)
		}
		b.WriteString(text + "\n" + brief(p.Reason, 4))
	}
	if more := total - len(shown); more > 0 {
		fmt.Fprintf(b, "and %d more: kube-router status -o json\n", more)
	}
}

// neighbours lists the peers, those without a session first.
func (c *command) neighbours(b *strings.Builder, s admin.Status) {
	if len(s.Peers) == 0 {
		return
	}
	up := 0
	for _, p := range s.Peers {
		if p.Established() {
			up++
		}
	}
	list := slices.Clone(s.Peers)
	slices.SortStableFunc(list, func(a, b admin.Peer) int {
		return cmp.Compare(btoi(a.Established()), btoi(b.Established()))
	})
	c.title(b, fmt.Sprintf("BGP PEERS, %d of %d up", up, len(list)))
	b.WriteString(c.peerTable(list[:min(len(list), mostPeers)]).text(columns, c.paint))
	if more := len(list) - mostPeers; more > 0 {
		fmt.Fprintf(b, "and %d more: kube-router show peers\n", more)
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// advice lists the mistakes with their way out, warnings first.
func (c *command) advice(b *strings.Builder, s admin.Status) {
	if len(s.Advice) == 0 {
		return
	}
	c.title(b, "ADVICE")
	list := slices.Clone(s.Advice)
	slices.SortStableFunc(list, func(a, b admin.Advice) int {
		return cmp.Compare(btoi(b.Severity == "warning"), btoi(a.Severity == "warning"))
	})
	for i, a := range list {
		paint := yellow
		if a.Severity == "warning" {
			paint = red
		}
		head := fmt.Sprintf("%s (%s, for %s)", a.Reason, a.Severity, age(a.Since, c.now))
		text := c.paint.paint(fit(printable(head), columns), paint) + "\n" + wrap(a.Message, 4)
		if i > 0 && strings.Count(b.String()+text, "\n") >= mostLines {
			fmt.Fprintf(b, "and %d more: kube-router status -o json\n", len(list)-i)
			return
		}
		b.WriteString(text)
	}
}
