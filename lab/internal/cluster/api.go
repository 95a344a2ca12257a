package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// api asks the API server a few things. It is not client-go so that the lab
// itself builds in seconds.
type api struct {
	server string
	http   *http.Client
}

// clientConfig is the part of a kubeconfig that the lab writes and reads.
type clientConfig struct {
	Clusters []struct {
		Cluster struct {
			Server string `json:"server"`
			CA     []byte `json:"certificate-authority-data"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		User struct {
			Cert []byte `json:"client-certificate-data"`
			Key  []byte `json:"client-key-data"`
		} `json:"user"`
	} `json:"users"`
}

func newAPI(kubeconfig string) (*api, error) {
	server, transport, err := Transport(kubeconfig)
	if err != nil {
		return nil, err
	}
	return &api{server: server, http: &http.Client{Timeout: 10 * time.Second, Transport: transport}}, nil
}

// Transport is the way to the API server that a kubeconfig of the lab
// describes: its URL, and connections that verify it and prove who asks.
func Transport(kubeconfig string) (server string, _ *http.Transport, err error) {
	data, err := os.ReadFile(kubeconfig)
	if err != nil {
		return "", nil, err
	}
	var c clientConfig
	if err := json.Unmarshal(data, &c); err != nil || len(c.Clusters) != 1 || len(c.Users) != 1 {
		return "", nil, fmt.Errorf("%s was not written by this lab: %w", kubeconfig, err)
	}
	cert, err := tls.X509KeyPair(c.Users[0].User.Cert, c.Users[0].User.Key)
	if err != nil {
		return "", nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.Clusters[0].Cluster.CA)
	return c.Clusters[0].Cluster.Server, &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}},
	}, nil
}

func (a *api) text(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, strings.TrimSpace(string(data)))
	}
	return string(data), err
}

func (a *api) get(ctx context.Context, path string, into any) error {
	text, err := a.text(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), into)
}

func (a *api) ready(ctx context.Context) error {
	_, err := a.text(ctx, "/readyz")
	return err
}

// node is what the lab reads of a Node.
type node struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Conditions []condition `json:"conditions"`
	} `json:"status"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

// is tells whether a condition holds, and what the object says about it.
func is(conditions []condition, kind string) (bool, string) {
	for _, c := range conditions {
		if c.Type == kind {
			return c.Status == "True", c.Message
		}
	}
	return false, "no condition " + kind + " yet"
}

func (a *api) nodes(ctx context.Context) ([]node, error) {
	var list struct {
		Items []node `json:"items"`
	}
	err := a.get(ctx, "/api/v1/nodes", &list)
	return list.Items, err
}

// pod is what the lab reads of a Pod.
type pod struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		NodeName string `json:"nodeName"`
	} `json:"spec"`
	Status struct {
		Phase      string            `json:"phase"`
		Conditions []condition       `json:"conditions"`
		Init       []containerStatus `json:"initContainerStatuses"`
		Containers []containerStatus `json:"containerStatuses"`
	} `json:"status"`
}

type containerStatus struct {
	Name         string `json:"name"`
	RestartCount int    `json:"restartCount"`
	State        struct {
		Waiting *struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"waiting"`
	} `json:"state"`
}

// pods lists pods of kube-system by label k8s-app.
func (a *api) pods(ctx context.Context, app string) ([]pod, error) {
	var list struct {
		Items []pod `json:"items"`
	}
	err := a.get(ctx, "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3D"+app, &list)
	return list.Items, err
}
