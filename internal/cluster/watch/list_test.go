package watch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kube-router/kube-router/internal/cluster"
)

// managed is a Service with what the API server adds of who wrote it.
func managed(name, ip string) corev1.Service {
	now := metav1.NewTime(time.Unix(1700000000, 0))
	return corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: "1", Labels: map[string]string{"app": name},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "kubectl", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", Time: &now,
				FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:clusterIP":{}}}`),
			}},
		},
		Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func serviceList(t testing.TB, services ...corev1.Service) []byte {
	return protobufOf(t, "ServiceList", &corev1.ServiceList{
		ListMeta: metav1.ListMeta{ResourceVersion: "42", Continue: "more"}, Items: services,
	})
}

func serviceStore() *store[corev1.Service, cluster.Service, *corev1.Service] {
	return newStore("Service", serviceFrom, &cluster.NewFeeds().Services, nil)
}

// TestListIsConvertedAsItComes: object by object, from a connection that gives
// what it likes, and one object leaves nothing in the next.
func TestListIsConvertedAsItComes(t *testing.T) {
	text := serviceList(t, managed("a", "10.96.0.1"), corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "none"}}, managed("c", "10.96.0.3"))
	for name, r := range map[string]io.Reader{
		"whole":         bytes.NewReader(text),
		"byte for byte": iotest.OneByteReader(bytes.NewReader(text)),
	} {
		t.Run(name, func(t *testing.T) {
			l, err := decodeList(r, serviceStore().decode)
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintln("version", l.ResourceVersion, "continue", l.Continue)
			for _, item := range l.Items {
				c := item.(*converted[cluster.Service])
				got += fmt.Sprintln(c.key, c.object.ClusterIPs, len(c.object.Ports))
			}
			want := "version 42 continue more\ndefault/a [10.96.0.1] 1\ndefault/none [] 0\ndefault/c [10.96.0.3] 1\n"
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestLeanLeavesOutOnlyManagedFields of an object.
func TestLeanLeavesOutOnlyManagedFields(t *testing.T) {
	full := managed("a", "10.96.0.1")
	text, err := full.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var got corev1.Service
	if err := got.Unmarshal(appendLean(nil, text)); err != nil {
		t.Fatal(err)
	}
	full.ManagedFields = nil
	if diff := cmp.Diff(full, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestBrokenListIsAnError and never half a list.
func TestBrokenListIsAnError(t *testing.T) {
	text := serviceList(t, managed("a", "10.96.0.1"), managed("b", "10.96.0.2"))
	for length := range text {
		l, err := decodeList(bytes.NewReader(text[:length]), serviceStore().decode)
		// After the list there are fields that say nothing of it.
		if err == nil && (l.ResourceVersion != "42" || len(l.Items) != 2) {
			t.Fatalf("the first %d of %d bytes are a list of %d", length, len(text), len(l.Items))
		}
	}
	cut := errors.New("connection reset")
	if _, err := decodeList(io.MultiReader(bytes.NewReader(text[:len(text)-9]), iotest.ErrReader(cut)), serviceStore().decode); !errors.Is(err, cut) {
		t.Errorf("a connection that is cut gives %v", err)
	}
	if _, err := decodeList(strings.NewReader(`{"kind":"ServiceList"}`), serviceStore().decode); !errors.Is(err, errFormat) {
		t.Errorf("JSON gives %v", err)
	}
}

// FuzzList: whatever an API server sends, nothing worse than an error happens.
func FuzzList(f *testing.F) {
	f.Add(serviceList(f, managed("a", "10.96.0.1")))
	f.Add(append(protobufMagic, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = decodeList(bytes.NewReader(text), serviceStore().decode)
		_, _ = decodeList(bytes.NewReader(text), newStore("NetworkPolicy", networkPolicyFrom, &cluster.NewFeeds().NetworkPolicies, nil).decode)
		var service corev1.Service
		_ = service.Unmarshal(appendLean(nil, text))
	})
}

var _ runtime.Object = (*converted[networkingv1.NetworkPolicy])(nil)
