// Package load puts many Services into an API server, and changes them.
package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kube-router/kube-router/lab/internal/cluster"
)

// requestTime bounds one request: the API server itself takes a minute at most.
const requestTime = 90 * time.Second

// Client writes to the API server. It is not client-go so that the lab builds
// in seconds, and so that it takes little of a guest's one processor.
type Client struct {
	server string
	http   *http.Client
}

// NewClient returns the client of a kubeconfig of the lab, for as many
// requests at once as workers.
func NewClient(kubeconfig string, workers int) (*Client, error) {
	server, transport, err := cluster.Transport(kubeconfig)
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost = workers
	return &Client{server: server, http: &http.Client{Timeout: requestTime, Transport: transport}}, nil
}

// Create creates an object in a collection.
func (c *Client) Create(ctx context.Context, collection string, object any) error {
	return c.do(ctx, http.MethodPost, collection, "application/json", object)
}

// Patch merges a change into an object.
func (c *Client) Patch(ctx context.Context, path string, change any) error {
	return c.do(ctx, http.MethodPatch, path, "application/merge-patch+json", change)
}

// deleteAll deletes a collection. The API server answers a request that takes
// it more than a minute with an error, and the deletion goes on with the next.
func (c *Client) deleteAll(ctx context.Context, collection string) error {
	for {
		err := c.do(ctx, http.MethodDelete, collection, "", nil)
		var status statusError
		if !errors.As(err, &status) || status.code != http.StatusGatewayTimeout {
			return err
		}
	}
}

// statusError is an answer that is not a success.
type statusError struct {
	code int
	text string
}

func (e statusError) Error() string { return e.text }

func (c *Client) do(ctx context.Context, method, path, kind string, body any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if resp.StatusCode >= 300 {
		return statusError{resp.StatusCode, fmt.Sprintf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(answer)))}
	}
	return err
}

// Each calls work for the numbers from first to end-1, from as many workers at
// once, and returns the first error, after which no new work begins.
func Each(ctx context.Context, workers, first, end int, work func(ctx context.Context, i int) error) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var next atomic.Int64
	next.Store(int64(first))
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := int(next.Add(1) - 1); i < end && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				if err := work(ctx, i); err != nil {
					fail(err)
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}
