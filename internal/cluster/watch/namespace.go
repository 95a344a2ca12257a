package watch

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kube-router/kube-router/internal/cluster"
)

func namespaceFrom(n *corev1.Namespace) (cluster.Key, *cluster.Namespace) {
	namespace := &cluster.Namespace{
		Meta:   metaOf(&n.ObjectMeta, &problems{}),
		Labels: labels.Set(n.Labels),
	}
	return namespace.Key, namespace
}
