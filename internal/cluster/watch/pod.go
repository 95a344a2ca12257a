package watch

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
)

func podFrom(o *corev1.Pod) (cluster.Key, *cluster.Pod) {
	var p problems
	pod := &cluster.Pod{
		Labels:      labels.Set(o.Labels),
		IPs:         podIPs(&o.Status, &p),
		Node:        o.Spec.NodeName,
		HostNetwork: o.Spec.HostNetwork,
		Finished:    o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed,
	}
	for i := range o.Spec.InitContainers {
		// An init container that restarts always is a sidecar: it runs as long
		// as the pod does (KEP-753).
		c := &o.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			pod.Ports = appendNamedPorts(pod.Ports, c, &p)
		}
	}
	for i := range o.Spec.Containers {
		pod.Ports = appendNamedPorts(pod.Ports, &o.Spec.Containers[i], &p)
	}
	pod.Meta = metaOf(&o.ObjectMeta, &p)
	return pod.Key, pod
}

func podIPs(status *corev1.PodStatus, p *problems) []netip.Addr {
	list := status.PodIPs
	if len(list) == 0 && status.PodIP != "" {
		list = []corev1.PodIP{{IP: status.PodIP}}
	}
	var ips []netip.Addr
	for i, s := range list {
		addr, ok := parseAddr(s.IP)
		if !ok || addr.IsUnspecified() {
			p.add("status.podIPs[%d]: %s is not the IP address of a pod; it is left out", i, quote(s.IP))
			continue
		}
		ips = appendNew(ips, addr)
	}
	return ips
}

func appendNamedPorts(ports []cluster.ContainerPort, c *corev1.Container, p *problems) []cluster.ContainerPort {
	for _, cp := range c.Ports {
		if cp.Name == "" {
			continue
		}
		number, ok := parsePort(cp.ContainerPort)
		protocol, err := parseProtocol(cp.Protocol)
		if !ok || err != nil {
			p.add("port %s of container %s: %d/%s is not a port; it is left out", quote(cp.Name), quote(c.Name), cp.ContainerPort, quote(string(cp.Protocol)))
			continue
		}
		ports = append(ports, cluster.ContainerPort{Name: cp.Name, Protocol: protocol, Port: number})
	}
	return ports
}
