package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// runBIRD starts BIRD with a configuration. It ends with this process.
func runBIRD(ctx context.Context, dir, name, config string) (*exec.Cmd, error) {
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "bird", "-f", "-c", file, "-s", filepath.Join(dir, name+".ctl"))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting BIRD: %w", err)
	}
	return cmd, nil
}

// startBIRD starts BIRD in the place of the agent.
func (m *node) startBIRD(ctx context.Context, _ string) (err error) {
	if m.dir, err = os.MkdirTemp("", "bench-routes-"); err != nil {
		return err
	}
	m.agent, err = runBIRD(ctx, m.dir, "node", fmt.Sprintf(`
router id %[1]s;
log stderr { bug };
protocol device {}
protocol direct { ipv4; interface "eth0"; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol bgp peer {
	local %[1]s as %[3]d;
	neighbor %[2]s as %[3]d;
	strict bind yes;
	multihop; # to the same host
	connect delay time 1;
	ipv4 { import all; export none; };
}
`, nodeAddr, otherAddr, asn))
	return err
}

// birdReflectors are two processes of BIRD, as ourReflectors has speakers.
func birdReflectors(ctx context.Context, _ int) (memory func() (float64, error), stop func(), err error) {
	dir, err := os.MkdirTemp("", "bench-routes-")
	if err != nil {
		return nil, nil, err
	}
	var processes []*exec.Cmd
	stop = func() {
		for _, p := range processes {
			_ = p.Process.Signal(syscall.SIGTERM)
			_ = p.Wait()
		}
		os.RemoveAll(dir)
	}
	for i := 1; i <= 2; i++ {
		p, err := runBIRD(ctx, dir, strconv.Itoa(i), fmt.Sprintf(`
router id %[1]s;
log stderr { bug };
protocol device {}
template bgp session {
	local %[1]s port %[3]d as %[4]d;
	strict bind yes;
	rr client;
	rr cluster id %[1]s;
	ipv4 { import all; export all; };
}
protocol bgp reflector from session {
	neighbor %[2]s port %[3]d as %[4]d;
}
protocol bgp clients from session {
	neighbor range 127.9.0.0/16 as %[4]d;
	dynamic name "client";
}
`, speakerAddr(i), speakerAddr(3-i), benchPort, asn))
		if err != nil {
			stop()
			return nil, nil, err
		}
		processes = append(processes, p)
	}
	memory = func() (all float64, err error) {
		for _, p := range processes {
			resident, wrong := residentOf(strconv.Itoa(p.Process.Pid))
			all, err = all+resident, errors.Join(err, wrong)
		}
		return all / float64(len(processes)), err
	}
	return memory, stop, nil
}
