package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kube-router/kube-router/lab/internal/stamp"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// Store returns a directory that holds the images of the archives, unpacked,
// as containerd keeps them. Guests mount it read-only and put their own
// containerd's root together from it: so no guest unpacks an image, and none
// holds one in its memory. It must not be called while a cluster runs, since
// unpacking a newer image removes the older.
func Store(ctx context.Context, ws workspace.Workspace, archives []string) (string, error) {
	store := ws.Path("images", "store")
	var stale []string
	keys := map[string]string{}
	for _, a := range archives {
		// An archive is written anew exactly if its stamp changed.
		name := strings.TrimSuffix(filepath.Base(a), ".tar")
		key, err := new(stamp.Sum).File(ws.Path("stamps", "image-"+name)).Key()
		if err != nil {
			return "", err
		}
		keys[a] = key
		if !stamp.Fresh(storeStamp(ws, a), key, store) {
			stale = append(stale, a)
		}
	}
	if len(stale) == 0 {
		return store, nil
	}
	if err := importAll(ctx, store, stale); err != nil {
		// Half an import is worth nothing: begin anew next time.
		os.RemoveAll(store)
		return "", err
	}
	for _, a := range stale {
		if err := stamp.Write(storeStamp(ws, a), keys[a]); err != nil {
			return "", err
		}
	}
	return store, nil
}

func storeStamp(ws workspace.Workspace, archive string) string {
	return ws.Path("stamps", "store-"+filepath.Base(archive))
}

const storeConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`

// importAll runs a containerd of our own on the host for as long as it takes.
func importAll(ctx context.Context, store string, archives []string) error {
	work, err := os.MkdirTemp("", "kube-router-store-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	socket, config := filepath.Join(work, "s"), filepath.Join(work, "config.toml")
	text := fmt.Sprintf(storeConfig, store, filepath.Join(work, "state"), socket, socket+".ttrpc")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(work, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--config", config)
	daemon.Stdout, daemon.Stderr = log, log
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		return fmt.Errorf("start containerd to unpack images: %w", err)
	}
	defer func() { _ = daemon.Process.Signal(syscall.SIGTERM); _ = daemon.Wait() }()
	if err := awaitSocket(ctx, socket); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("containerd, to unpack images, did not start: %w\n%s", err, lastLines(string(text), 20))
	}
	for _, a := range archives {
		if err := run(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", a); err != nil {
			return err
		}
	}
	return nil
}

func awaitSocket(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if exec.CommandContext(ctx, "ctr", "--address", socket, "version").Run() == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
