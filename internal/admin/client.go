package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"
)

// askTimeout is how long an answer may take.
const askTimeout = 10 * time.Second

// mostBytes bounds an answer.
const mostBytes = 256 << 20

// Client asks the agent that listens on a socket.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a Client of a socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket, &http.Client{Timeout: askTimeout, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Get asks for a path ("status", "peers") and returns the JSON. An error says
// what to do next.
func (c *Client) Get(ctx context.Context, path string) (json.RawMessage, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kube-router/v1/"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.explain(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, mostBytes))
	if err != nil {
		return nil, c.explain(err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response.Status, body)
	}
	return body, nil
}

func refusal(status string, body []byte) error {
	var f failure
	if json.Unmarshal(body, &f) != nil || f.Error == "" {
		return fmt.Errorf("the agent answers %s: is it of another version than this command?", status)
	}
	return errors.New(f.Error)
}

// explain says what a failure to ask means.
func (c *Client) explain(err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no kube-router runs here: there is no %s. Look for its pod with 'kubectl -n kube-system get pods -l k8s-app=kube-router -o wide' and at its log; run this command inside of it ('kubectl exec'), or name its socket with --socket", c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("kube-router does not run any more: nobody listens on %s. The log of the former run says why: 'kubectl -n kube-system logs --previous <pod>'", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is for root: run this command as root", c.socket)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("kube-router has not answered within %s: it hangs, or the node is out of CPU. /healthz of the agent says which controller; restarting the pod changes nothing of what is programmed", askTimeout)
	}
	return fmt.Errorf("asking kube-router at %s: %w", c.socket, err)
}

// Status asks for the Status.
func (c *Client) Status(ctx context.Context) (Status, json.RawMessage, error) {
	return get[Status](ctx, c, "status")
}

// Ask asks for a list: "peers", "routes", "services", "policies" or "sets".
func Ask[T any](ctx context.Context, c *Client, what string) ([]T, json.RawMessage, error) {
	list, raw, err := get[List[T]](ctx, c, what)
	return list.Items, raw, err
}

func get[T any](ctx context.Context, c *Client, path string) (T, json.RawMessage, error) {
	var result T
	raw, err := c.Get(ctx, path)
	if err != nil {
		return result, nil, err
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return result, nil, fmt.Errorf("the agent's answer cannot be read, is it of another version than this command? %w", err)
	}
	return result, raw, nil
}
