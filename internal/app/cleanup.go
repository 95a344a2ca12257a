package app

import (
	"context"
	"io"
	"log/slog"

	"github.com/kube-router/kube-router/internal/cleanup"
	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kubeproxy"
)

// CleanUp removes everything that the agent has made on this node, and what a
// kube-proxy left, and writes a line for each thing. Its error says that
// something is left.
func CleanUp(ctx context.Context, cfg config.Config, out io.Writer) error {
	return cleanup.Run(ctx, cleanup.Options{
		Excluded: cfg.Services.ExcludedCIDRs, NodePorts: cleanup.PortRange(cfg.Services.NodePorts), CNIFile: cfg.CNI.File,
		Record: record.Open(cfg.RecordFile, slog.New(slog.DiscardHandler)), HealthAddress: cfg.HealthAddress,
		Socket: cfg.Socket, KubeProxy: kubeproxy.ThisHost(),
	}, out)
}
