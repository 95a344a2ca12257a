// Package guest boots User-Mode Linux guests and runs commands inside them.
//
// A guest's root file system is the host's, read-only, below a private
// overlay in the guest's memory. Host and guest talk through one directory,
// the channel, which the guest mounts writable with hostfs: requests,
// output and exit statuses are files in it. That works without any network,
// so a guest whose networking is broken can still be asked why.
package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// InitCommand is the subcommand of the lab binary that runs as a guest's
// first process; the kernel starts it.
const InitCommand = "guest-init"

// AgentCommand is the subcommand of the lab binary that serves requests
// inside a guest; the first process starts it.
const AgentCommand = "guest-agent"

// Spec says how a guest is set up. The host writes it into the channel
// directory before boot, the guest's first process reads it.
type Spec struct {
	// Hostname of the guest.
	Hostname string `json:"hostname"`
	// Writable lists host directories that the guest may change for real.
	Writable []string `json:"writable,omitempty"`
	// ReadOnly lists host directories that containers' overlays stand on,
	// which the guest's own root, an overlay itself, cannot serve well.
	ReadOnly []string `json:"readOnly,omitempty"`
	// Tmpfs lists directories that get an empty file system in memory.
	Tmpfs []string `json:"tmpfs,omitempty"`
	// Setup is a shell script that runs once, before any request is served.
	Setup string `json:"setup,omitempty"`
	// Services are started after Setup and are expected to stay up.
	Services []Service `json:"services,omitempty"`
}

// Service is a long-running program inside a guest. Its output goes to
// NAME.log in the channel directory.
type Service struct {
	Name string `json:"name"`
	// After is a file in the channel that the service waits for, if set.
	After   string   `json:"after,omitempty"`
	Command []string `json:"command"`
}

// Request asks a guest to run one command.
type Request struct {
	Command []string `json:"command"`
	Dir     string   `json:"dir,omitempty"`
	Env     []string `json:"env,omitempty"`
}

// result is what the guest answers when a request's command has ended.
type result struct {
	Status int    `json:"status"`
	Error  string `json:"error,omitempty"`
}

// Names inside the channel directory.
const (
	specFile    = "spec.json"
	requestsDir = "requests"
	errorFile   = "error"
	readyFile   = "ready"
	consoleFile = "console.log"
	suffixOut   = ".out"
	suffixErr   = ".err"
	suffixDone  = ".done"
	suffixKill  = ".kill"
)

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return writeAtomic(path, data)
}

// writeAtomic lets a file appear with its whole content at once: the other
// side polls for the name.
func writeAtomic(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
