package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// restTime is how long the agent is at rest before its memory is read.
const restTime = 5 * time.Second

// measureMemory is the process that has an API server of its own for the
// agent, the real program with the policy controller alone. It prints its row.
func measureMemory(ctx context.Context, program string, out io.Writer) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("the loopback: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	api, err := newAPI(standard(policyCount, policiesPerPod))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: api}
	go server.Serve(listener)
	defer server.Close()
	memory, err := runAgent(ctx, program, "http://"+listener.Addr().String())
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode([]Row{{What: memoryName, Policies: policyCount, Memory: memory}})
}

// runAgent runs the agent until it is at rest, and returns its memory.
func runAgent(ctx context.Context, program, server string) (*Memory, error) {
	dir, err := os.MkdirTemp("", "bench-policy-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, kubeconfigText, server), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "--run-router=false", "--run-service-proxy=false", "--run-firewall=true",
		"--kubeconfig="+kubeconfig, "--hostname-override="+localNode, "--health-port="+strconv.Itoa(healthPort))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the agent: %w", err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	if err := awaitReady(ctx); err != nil {
		return nil, err
	}
	if err := pause(ctx, restTime); err != nil {
		return nil, err
	}
	return memoryOf(strconv.Itoa(cmd.Process.Pid))
}

const healthPort = 20244

const kubeconfigText = `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: %q}}]
users: [{name: bench, user: {}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
current-context: bench
`

// awaitReady asks the agent until it has programmed everything.
func awaitReady(ctx context.Context) error {
	for deadline := time.Now().Add(settleTime); time.Now().Before(deadline); {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", healthPort))
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("the agent is not ready in time")
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
