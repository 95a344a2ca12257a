package main

import (
	"context"
	"flag"
	"os"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/build"
	"github.com/kube-router/kube-router/lab/internal/debian"
	"github.com/kube-router/kube-router/lab/internal/image"
	"github.com/kube-router/kube-router/lab/internal/modules"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

func buildPrograms(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lab build", flag.ContinueOnError)
	with := flags.String("with", "", "programs to build besides, separated by commas: kube-proxy, e2e.test")
	if err := parse(flags, args); err != nil {
		return err
	}
	ws, err := workspace.Find()
	if err != nil {
		return err
	}
	var extra []string
	if *with != "" {
		extra = strings.Split(*with, ",")
	}
	log := progress.New(os.Stdout)
	if err := build.Run(ctx, ws, log, extra); err != nil {
		return err
	}
	log.Printf("programs are in %s", ws.Path("bin"))
	return nil
}

func buildModules(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("lab modules", flag.ContinueOnError), args); err != nil {
		return err
	}
	ws, err := workspace.Find()
	if err != nil {
		return err
	}
	return modules.Ensure(ctx, ws, progress.New(os.Stdout))
}

func buildImages(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lab image", flag.ContinueOnError)
	if err := parse(flags, args); err != nil {
		return err
	}
	ws, err := workspace.Find()
	if err != nil {
		return err
	}
	log := progress.New(os.Stdout)
	if err := debian.Ensure(ctx, log, debian.Image); err != nil {
		return err
	}
	if err := build.Run(ctx, ws, log, nil); err != nil {
		return err
	}
	archives, err := image.ClusterArchives(ctx, ws, log)
	if err != nil {
		return err
	}
	product, err := image.ProductArchive(ctx, ws, log)
	if err != nil {
		return err
	}
	log.Printf("the product's image is in %s, test images in %s", product, strings.Join(archives, " "))
	return nil
}
