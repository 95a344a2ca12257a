// Package watch fills the cluster's feeds from the Kubernetes API server and
// posts Events to it. It is the only package that knows client-go.
//
// It uses the parts of client-go that are cheap: a REST client that knows eight
// kinds, protobuf on the wire, and one reflector for each feed that somebody
// subscribed to. An object of the API lives only until it is converted.
package watch

import (
	"fmt"
	"log/slog"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Options say how to reach the API server.
type Options struct {
	// Kubeconfig is the path of a kubeconfig; empty means the service account
	// of the Pod.
	Kubeconfig string
	// Master overrides the URL of the API server.
	Master string
	// KubeletKubeconfig is where the kubelet's kubeconfig is looked for, whose
	// server URL a Pod uses; empty means the places of kubeadm and k3s.
	KubeletKubeconfig string
	// NodeName is the name of this node, the source of Events.
	NodeName string
	// UserAgent is what the API server's audit log shows.
	UserAgent string
	Log       *slog.Logger
}

// Client is a connection to the API server.
type Client struct {
	log      *slog.Logger
	codecs   codecs
	clients  map[schema.GroupVersion]rest.Interface
	lists    map[schema.GroupVersion]rest.Interface // for lists only
	link     *link
	recorder *Recorder
}

// Open prepares the connection. It does not wait for the API server; an error
// says what is wrong with the options or with the files that they name.
func Open(o Options) (*Client, error) {
	cfg, err := restConfig(o, rest.InClusterConfig)
	if err != nil {
		return nil, err
	}
	return newClient(cfg, o)
}

func newClient(cfg *rest.Config, o Options) (*Client, error) {
	c := &Client{
		log:    o.Log,
		codecs: newCodecs(),
		link:   newLink(cfg.Host, o.Log),
	}
	tune(cfg, o.UserAgent)
	var err error
	if c.clients, err = c.clientsFor(cfg); err == nil {
		c.lists, err = c.clientsFor(forLists(cfg))
	}
	if err != nil {
		return nil, fmt.Errorf("connection to the API server %s: %w", cfg.Host, err)
	}
	c.recorder = newRecorder(o.NodeName, c.postEvent, o.Log)
	return c, nil
}

// tune sets what costs least. Protobuf decodes in a third of the time and
// memory of JSON. Compression is left out: watches are not compressed anyway.
// There is no client-side rate limit: the few requests are one per feed, and
// Events have their own.
func tune(cfg *rest.Config, userAgent string) {
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.DisableCompression = true
	cfg.QPS = -1
	cfg.UserAgent = userAgent
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.Dial = dial
}

// forLists is a configuration whose requests are HTTP/1.1, each on a connection
// of its own: what the server sends is read when it is decoded, and until then
// waits in the kernel. Of HTTP/2 up to 4 MiB a stream would wait in the agent's
// memory, since a server is faster than the decoder. Objects of one kind are
// much alike, so that a list is a fraction of its size when it is compressed:
// the system calls that this spares cost more than to expand it.
func forLists(cfg *rest.Config) *rest.Config {
	lists := rest.CopyConfig(cfg)
	lists.NextProtos = []string{"http/1.1"}
	lists.DisableCompression = false
	return lists
}

// clientsFor are the clients of all groups and versions.
func (c *Client) clientsFor(cfg *rest.Config) (map[schema.GroupVersion]rest.Interface, error) {
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	clients := map[schema.GroupVersion]rest.Interface{}
	for _, gv := range groupVersions() {
		if clients[gv], err = c.clientFor(cfg, gv, httpClient); err != nil {
			return nil, err
		}
	}
	return clients, nil
}

// clientFor is the client of one group and version, on the shared connection.
func (c *Client) clientFor(base *rest.Config, gv schema.GroupVersion, httpClient *http.Client) (rest.Interface, error) {
	cfg := rest.CopyConfig(base)
	cfg.GroupVersion = &gv
	cfg.NegotiatedSerializer = c.codecs.WithoutConversion()
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	return rest.RESTClientForConfigAndClient(cfg, httpClient)
}

// Events is where problems of the cluster's objects are reported. They are
// posted while Run runs.
func (c *Client) Events() *Recorder { return c.recorder }

// Server is the URL of the API server.
func (c *Client) Server() string { return c.link.server }
