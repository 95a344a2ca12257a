package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kube-router/kube-router/internal/cluster"
)

// pageSize bounds how many of the API's objects a list holds at a time.
const pageSize = 500

// ListServices reads the Services from the API server, as they are now. The
// feed has the same ones, but may lag behind.
func (c *Client) ListServices(ctx context.Context, each func(*cluster.Service)) error {
	o := metav1.ListOptions{LabelSelector: withoutHeadless, Limit: pageSize}
	for {
		var page corev1.ServiceList
		err := c.clients[corev1.SchemeGroupVersion].Get().Resource("services").
			VersionedParams(&o, c.codecs).Do(ctx).Into(&page)
		if err != nil {
			return fmt.Errorf("list of Services: %w", err)
		}
		for i := range page.Items {
			if _, service := serviceFrom(&page.Items[i]); service != nil {
				each(service)
			}
		}
		if o.Continue = page.Continue; o.Continue == "" {
			return nil
		}
	}
}

// SetLoadBalancerIPs writes the status of the Service with that UID, if it is
// of type LoadBalancer. One that is gone is left alone.
func (c *Client) SetLoadBalancerIPs(ctx context.Context, service *cluster.Meta, addrs []netip.Addr) error {
	status := corev1.LoadBalancerStatus{}
	for _, addr := range addrs {
		status.Ingress = append(status.Ingress, corev1.LoadBalancerIngress{IP: addr.String()})
	}
	return c.patchStatus(ctx, service, []operation{
		{"test", "/metadata/uid", service.UID},
		{"test", "/spec/type", corev1.ServiceTypeLoadBalancer},
		{"add", "/status/loadBalancer", status},
	})
}

// ClearLoadBalancerIPs empties the status of the Service with that UID, if the
// address is the first that it shows.
func (c *Client) ClearLoadBalancerIPs(ctx context.Context, service *cluster.Meta, shown netip.Addr) error {
	err := c.patchStatus(ctx, service, []operation{
		{"test", "/metadata/uid", service.UID},
		{"test", "/status/loadBalancer/ingress/0/ip", shown.String()},
		{"add", "/status/loadBalancer", corev1.LoadBalancerStatus{}},
	})
	if apierrors.IsInvalid(err) {
		return nil // it is another Service, or shows something else by now
	}
	return err
}

// operation is a step of a JSON Patch (RFC 6902). The tests of a patch make the
// server apply all of it or nothing, so that it takes one request and no right
// to read.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func (c *Client) patchStatus(ctx context.Context, service *cluster.Meta, patch []operation) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	err = c.clients[corev1.SchemeGroupVersion].Patch(types.JSONPatchType).
		Namespace(service.Namespace).Resource("services").Name(service.Name).SubResource("status").
		Body(body).Do(ctx).Error()
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsForbidden(err):
		return fmt.Errorf("let the ClusterRole of this agent patch services/status: %w", err)
	}
	return err
}
