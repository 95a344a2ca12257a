package config

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// columns is the width of the help text, that of a terminal.
const columns = 80

// Usage is the help text, laid out as a manual page: the commands, which are
// described by themselves, and the flags in groups, each with its default.
func Usage(commands string) string {
	f := define(new(Config))
	var b strings.Builder
	b.WriteString("NAME\n    kube-router - the network of a Kubernetes node\n\n")
	b.WriteString("SYNOPSIS\n    kube-router [flags]\n    kube-router status|show|migrate ...\n\n")
	b.WriteString("DESCRIPTION\n")
	b.WriteString(wrap("Gives the pods of this node their network: routes to other nodes by BGP, Services by IPVS, NetworkPolicies by iptables and ipset. It runs until SIGTERM or SIGINT; what it programmed stays in the kernel. It needs root.", 4))
	b.WriteString("\n" + commands)
	for _, s := range f.sections {
		fmt.Fprintf(&b, "\n%s\n", strings.ToUpper(s.title))
		for _, flag := range s.flags {
			b.WriteString(describe(flag))
		}
	}
	b.WriteString("\nEXIT STATUS\n")
	b.WriteString(wrap("0 after a signal, and after --cleanup-config when nothing is left; 1 when it could not run, or something could not be removed; 2 for a command line that cannot be run. Of the commands: 0 when all is well, 1 when kube-router status sees something wrong, no agent answers, or kube-router migrate must not or cannot remove something, 2 for a command line that cannot be run.", 4))
	return b.String()
}

// describe is a flag's entry: a line with the name and the default, and the
// explanation below it.
func describe(flag *pflag.Flag) string {
	var b strings.Builder
	b.WriteString("    ")
	if flag.Shorthand != "" {
		fmt.Fprintf(&b, "-%s, ", flag.Shorthand)
	}
	fmt.Fprintf(&b, "--%s", flag.Name)
	switch {
	case flag.NoOptDefVal == "":
		fmt.Fprintf(&b, "=%s", flag.Value.Type())
	case flag.Shorthand == "":
		fmt.Fprintf(&b, "[=%s]", flag.Value.Type())
	}
	if flag.DefValue != "" && flag.Shorthand == "" {
		fmt.Fprintf(&b, "  (default %s)", flag.DefValue)
	}
	return b.String() + "\n" + wrap(flag.Usage, 8)
}

// wrap breaks text between words, each line indented.
func wrap(text string, indent int) string {
	var b strings.Builder
	width := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case width == 0:
			b.WriteString(strings.Repeat(" ", indent))
			width = indent
		case width+1+len(word) > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			width = indent
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String() + "\n"
}
