package watch

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// newScheme knows the few kinds that this package reads and writes. The scheme
// of client-go's clientset knows every kind of Kubernetes, which costs tens of
// megabytes in each agent.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion,
		&corev1.Node{}, &corev1.NodeList{}, &corev1.Service{}, &corev1.ServiceList{},
		&corev1.Pod{}, &corev1.PodList{}, &corev1.Namespace{}, &corev1.NamespaceList{},
		&corev1.Event{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	s.AddKnownTypes(coordinationv1.SchemeGroupVersion, &coordinationv1.Lease{})
	for _, gv := range groupVersions() {
		metav1.AddToGroupVersion(s, gv)
	}
	return s
}

func groupVersions() []schema.GroupVersion {
	return []schema.GroupVersion{corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion, coordinationv1.SchemeGroupVersion}
}

// codecs is how the API's objects are read and written, and how the options of
// a list become a query.
type codecs struct {
	serializer.CodecFactory
	runtime.ParameterCodec
}

func newCodecs() codecs {
	s := newScheme()
	return codecs{serializer.NewCodecFactory(s), runtime.NewParameterCodec(s)}
}
