package main

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

// api answers an agent as an API server would in which nothing changes: lists
// in protobuf, and watches that stay silent.
type api map[string][]byte

const nodeName = "node"

// newAPI has two Nodes, the agent's and the one that it learns from.
func newAPI() (api, error) {
	list := metav1.ListMeta{ResourceVersion: "1"}
	nodes := &corev1.NodeList{ListMeta: list, Items: []corev1.Node{
		nodeOf(nodeName, nodeAddr.String(), "10.244.0.0/24"), nodeOf("other", otherAddr.String(), "10.244.1.0/24"),
	}}
	a := api{}
	for path, l := range map[string]runtime.Object{
		"/api/v1/nodes": nodes, "/api/v1/namespaces": &corev1.NamespaceList{ListMeta: list},
		"/api/v1/pods": &corev1.PodList{ListMeta: list}, "/api/v1/services": &corev1.ServiceList{ListMeta: list},
		"/apis/discovery.k8s.io/v1/endpointslices":   &discoveryv1.EndpointSliceList{ListMeta: list},
		"/apis/networking.k8s.io/v1/networkpolicies": &networkingv1.NetworkPolicyList{ListMeta: list},
	} {
		scheme := runtime.NewScheme()
		for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme} {
			if err := add(scheme); err != nil {
				return nil, err
			}
		}
		kinds, _, err := scheme.ObjectKinds(l)
		if err != nil {
			return nil, err
		}
		l.GetObjectKind().SetGroupVersionKind(kinds[0])
		if a[path], err = runtime.Encode(protobuf.NewSerializer(scheme, scheme), l); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func nodeOf(name, addr, cidr string) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec:       corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}},
	}
}

func (a api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	list, ok := a[r.URL.Path]
	switch {
	case !ok || r.Method != http.MethodGet:
		http.NotFound(w, r)
	case r.URL.Query().Get("watch") != "":
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf+";stream=watch")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		_, _ = w.Write(list)
	}
}
