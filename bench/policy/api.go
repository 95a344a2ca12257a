package main

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

// api answers an agent as an API server would in which nothing changes: lists
// in protobuf, and watches that stay silent.
type api map[string][]byte

const version = "1"

func newAPI(w *workload) (api, error) {
	namespaces := &corev1.NamespaceList{ListMeta: metav1.ListMeta{ResourceVersion: version}}
	for _, n := range w.namespaces {
		namespaces.Items = append(namespaces.Items, corev1.Namespace{ObjectMeta: meta("", n.name, n.labels)})
	}
	pods := &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: version}}
	for _, p := range w.pods {
		pods.Items = append(pods.Items, p.api())
	}
	policies := &networkingv1.NetworkPolicyList{ListMeta: metav1.ListMeta{ResourceVersion: version}}
	for _, p := range w.policies {
		item := *p.DeepCopy()
		item.ObjectMeta = meta(p.Namespace, p.Name, nil)
		policies.Items = append(policies.Items, item)
	}
	nodes := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: version}, Items: []corev1.Node{{
		ObjectMeta: meta("", localNode, nil), Spec: corev1.NodeSpec{PodCIDRs: []string{localCIDR}},
	}}}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, namespaces, pods, nodes)
	scheme.AddKnownTypes(networkingv1.SchemeGroupVersion, policies)
	a := api{}
	for path, list := range map[string]runtime.Object{
		"/api/v1/nodes": nodes, "/api/v1/namespaces": namespaces, "/api/v1/pods": pods,
		"/apis/networking.k8s.io/v1/networkpolicies": policies,
	} {
		kinds, _, err := scheme.ObjectKinds(list)
		if err != nil {
			return nil, err
		}
		list.GetObjectKind().SetGroupVersionKind(kinds[0])
		if a[path], err = runtime.Encode(protobuf.NewSerializer(scheme, scheme), list); err != nil {
			return nil, fmt.Errorf("encoding the list of %s: %w", path, err)
		}
	}
	return a, nil
}

func meta(namespace, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID("00000000-0000-0000-0000-" + name), ResourceVersion: version, Labels: labels,
	}
}

// api is the Pod as the API has it, with the parts that make up most of one.
func (p pod) api() corev1.Pod {
	var env []corev1.EnvVar
	for i := range 10 {
		env = append(env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", i), Value: "a value of some length that nobody needs here"})
	}
	return corev1.Pod{
		ObjectMeta: meta(p.namespace, p.name, p.labels),
		Spec: corev1.PodSpec{NodeName: p.node, Containers: []corev1.Container{{
			Name: "main", Image: "registry.example/team/application:v1.2.3", Env: env,
			Ports: []corev1.ContainerPort{{Name: portName, ContainerPort: portNumber, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: p.ip.String(), PodIPs: []corev1.PodIP{{IP: p.ip.String()}}},
	}
}

func (a api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	list, ok := a[r.URL.Path]
	switch {
	case !ok:
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
