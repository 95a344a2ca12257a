package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/release"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

func buildRelease(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lab release", flag.ContinueOnError)
	arch := flags.String("arch", "amd64,arm64,arm", "what to build for, separated by commas")
	version := flags.String("version", "unknown", "the version to stamp")
	out := flags.String("out", "dist", "the directory for the files, below the top of the tree: empty, or with a release, which goes")
	if err := parse(flags, args); err != nil {
		return err
	}
	ws, err := workspace.Find()
	if err != nil {
		return err
	}
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("%w: SOURCE_DATE_EPOCH must be the seconds from 1970 to the commit: git log -1 --format=%%ct", errUsage)
	}
	log := progress.New(os.Stdout)
	dir := ws.Source(*out)
	if err := release.Run(ctx, ws, log, release.Options{
		Architectures: strings.Split(*arch, ","), Version: *version, Time: time.Unix(epoch, 0), Out: dir,
	}); err != nil {
		return err
	}
	log.Printf("the release is in %s", dir)
	return nil
}
