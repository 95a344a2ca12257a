package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// kubeletKubeconfigs are where kubeadm (and kind) and k3s keep the kubelet's
// kubeconfig.
func kubeletKubeconfigs() []string {
	return []string{"/etc/kubernetes/kubelet.conf", "/var/lib/rancher/k3s/agent/kubelet.kubeconfig"}
}

// restConfig says how to reach the API server: by the kubeconfig if there is
// one, else with the Pod's service account.
func restConfig(o Options, inCluster func() (*rest.Config, error)) (*rest.Config, error) {
	if o.Kubeconfig != "" {
		return fromKubeconfig(o)
	}
	cfg, err := inCluster()
	switch {
	case err == nil && o.Master != "":
		cfg.Host = o.Master
	case err == nil:
		adoptKubeletServer(cfg, o)
	case o.Master != "":
		cfg = &rest.Config{Host: o.Master}
	default:
		return nil, fmt.Errorf("no --kubeconfig and not in a Pod (%w): set --kubeconfig to the kubeconfig of a user who may list and watch", err)
	}
	return cfg, nil
}

func fromKubeconfig(o Options) (*rest.Config, error) {
	if _, err := os.Stat(o.Kubeconfig); err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w; set it to an existing file, or leave it out in a Pod to use its service account", err)
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig},
		&clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: o.Master}},
	).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig=%s: %w", o.Kubeconfig, err)
	}
	return cfg, nil
}

// adoptKubeletServer takes the API server's address from the kubelet of this
// node. The one that Pods are given is the address of a Service, and on a
// fresh node it works only once this very agent has programmed it. The
// credentials stay those of the Pod.
func adoptKubeletServer(cfg *rest.Config, o Options) {
	paths := kubeletKubeconfigs()
	if o.KubeletKubeconfig != "" {
		paths = []string{o.KubeletKubeconfig}
	}
	for _, path := range paths {
		cluster, err := clusterOf(path)
		switch {
		case err == nil:
			o.Log.Info("API server's address taken from the kubelet's kubeconfig", "server", cluster.Server, "file", path, "instead_of", cfg.Host)
			cfg.Host = cluster.Server
			cfg.TLSClientConfig.ServerName = cluster.TLSServerName
			return
		case !errors.Is(err, fs.ErrNotExist):
			o.Log.Warn("kubelet's kubeconfig is of no use", "file", path, "err", err)
		}
	}
	o.Log.Info("no kubeconfig of a kubelet is mounted: the API server is reached by its Service address, which needs another proxy until this agent has programmed it; --master sets another address",
		slog.String("server", cfg.Host), slog.Any("looked_for", paths))
}

// clusterOf reads the cluster of a kubeconfig's current context.
func clusterOf(path string) (*clientcmdapi.Cluster, error) {
	kubeconfig, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	context := kubeconfig.Contexts[kubeconfig.CurrentContext]
	if context == nil {
		return nil, fmt.Errorf("there is no context %q", kubeconfig.CurrentContext)
	}
	cluster := kubeconfig.Clusters[context.Cluster]
	if cluster == nil || cluster.Server == "" {
		return nil, fmt.Errorf("there is no server in cluster %q", context.Cluster)
	}
	return cluster, nil
}
