package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/kube-router/kube-router/lab/internal/debian"
	"github.com/kube-router/kube-router/lab/internal/guest"
)

func guestExec(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lab guest-exec", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 10*time.Minute, "end the guest after this time")
	memory := flags.String("memory", "1G", "the guest's memory")
	if err := parse(flags, args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("%w: lab guest-exec [--timeout 10m] [--memory 1G] BINARY [ARGS...]", errUsage)
	}
	// Several guests start at once under go test: none of them may install.
	if err := debian.Require(debian.Guest); err != nil {
		return err
	}
	ctx, cancel := guest.WithTimeout(ctx, *timeout)
	defer cancel()
	status, err := guest.Exec(ctx, flags.Args(), *memory, os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	if status != 0 {
		return exitError(status)
	}
	return nil
}

// parse parses flags and marks mistakes as such.
func parse(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	if err != nil && err != flag.ErrHelp {
		return fmt.Errorf("%w: %s: %w", errUsage, flags.Name(), err)
	}
	return err
}
