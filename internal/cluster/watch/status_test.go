package watch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/kube-router/kube-router/internal/cluster"
)

// patched is an API server with Services as JSON, that applies JSON Patches
// (RFC 6902) and gives lists in pages of two.
type patched struct {
	t         *testing.T
	services  []map[string]any
	forbidden bool
	pages     int
}

func (p *patched) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	p.ServeHTTP(answer, r)
	return answer.Result(), nil
}

func (p *patched) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case p.forbidden:
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "services is forbidden")
	case r.Method == http.MethodGet && r.URL.Path == "/api/v1/services":
		p.list(w, r)
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/json-patch+json":
		p.patch(w, r)
	default:
		refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, r.Method+" "+r.URL.Path)
	}
}

func (p *patched) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if query.Get("limit") == "" || query.Get("resourceVersion") != "" || query.Get("labelSelector") != "!service.kubernetes.io/headless" {
		p.t.Errorf("list with %s", r.URL.RawQuery)
	}
	p.pages++
	from, _ := strconv.Atoi(query.Get("continue"))
	to, next := min(from+2, len(p.services)), ""
	if to < len(p.services) {
		next = strconv.Itoa(to)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "v1", "kind": "ServiceList", "metadata": map[string]any{"continue": next}, "items": p.services[from:to],
	})
}

func (p *patched) patch(w http.ResponseWriter, r *http.Request) {
	var operations []operation
	if err := json.NewDecoder(r.Body).Decode(&operations); err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return
	}
	for _, s := range p.services {
		meta := s["metadata"].(map[string]any)
		if r.URL.Path != fmt.Sprintf("/api/v1/namespaces/%s/services/%s/status", meta["namespace"], meta["name"]) {
			continue
		}
		if err := apply(s, operations); err != nil {
			refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s)
		return
	}
	refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "no such Service")
}

// apply applies the operations in place: the tests come first.
func apply(object map[string]any, operations []operation) error {
	for _, o := range operations {
		path := strings.Split(strings.TrimPrefix(o.Path, "/"), "/")
		last := path[len(path)-1]
		parent, err := walk(object, path[:len(path)-1])
		if err != nil {
			return err
		}
		switch o.Op {
		case "test":
			if value, err := walk(parent, []string{last}); err != nil || !reflect.DeepEqual(value, o.Value) {
				return fmt.Errorf("testing value %s failed", o.Path)
			}
		case "add":
			parent.(map[string]any)[last] = o.Value
		}
	}
	return nil
}

func walk(value any, path []string) (any, error) {
	for _, step := range path {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(v) {
				return nil, fmt.Errorf("no element %s", step)
			}
			value = v[i]
		default:
			return nil, fmt.Errorf("no member %s", step)
		}
	}
	return value, nil
}

// serve opens a Client of an API server with Services, written as YAML.
func serve(t *testing.T, services ...string) (*patched, *Client) {
	t.Helper()
	p := &patched{t: t}
	for _, text := range services {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		p.services = append(p.services, object)
	}
	client, err := newClient(&rest.Config{Host: "http://server", Transport: p}, Options{Log: new(logged).logger()})
	if err != nil {
		t.Fatal(err)
	}
	return p, client
}

// status is what the API server has of the first Service's load balancer.
func (p *patched) status() string {
	value, err := walk(p.services[0], []string{"status", "loadBalancer"})
	if err != nil {
		return err.Error()
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func named(name, uid string) *cluster.Meta {
	return &cluster.Meta{Key: cluster.Key{Namespace: "default", Name: name}, UID: uid}
}

const (
	empty     = `{metadata: {namespace: default, name: web, uid: u1}, spec: {type: LoadBalancer}, status: {loadBalancer: {}}}`
	shown     = `{metadata: {namespace: default, name: web, uid: u1}, spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: VIP}]}}}`
	leftOver  = `{metadata: {namespace: default, name: web, uid: u1}, spec: {type: ClusterIP}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}`
	otherName = `{metadata: {namespace: default, name: other, uid: u1}, spec: {type: LoadBalancer}, status: {loadBalancer: {}}}`
)

// The status is written of the very Service that was meant, or not at all.
func TestSetLoadBalancerIPs(t *testing.T) {
	for _, tc := range []struct {
		name, service, uid, addrs, want string
		fails                           bool
	}{
		{"both families", empty, "u1", "192.0.2.1 2001:db8::1", `{"ingress":[{"ip":"192.0.2.1"},{"ip":"2001:db8::1"}]}`, false},
		{"in place of others", shown, "u1", "192.0.2.9", `{"ingress":[{"ip":"192.0.2.9"}]}`, false},
		{"none", shown, "u1", "", `{}`, false},
		{"a new Service of that name", empty, "u0", "192.0.2.1", `{}`, true},
		{"another type by now", leftOver, "u1", "192.0.2.9", `{"ingress":[{"ip":"192.0.2.1"}]}`, true},
		{"gone", otherName, "u1", "192.0.2.1", `{}`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, client := serve(t, tc.service)
			var addrs []netip.Addr
			for _, s := range strings.Fields(tc.addrs) {
				addrs = append(addrs, netip.MustParseAddr(s))
			}
			err := client.SetLoadBalancerIPs(t.Context(), named("web", tc.uid), addrs)
			if got := p.status(); got != tc.want || (err != nil) != tc.fails {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

// A status is cleared where it shows what is to go, and then only.
func TestClearLoadBalancerIPs(t *testing.T) {
	const kept = `{"ingress":[{"ip":"192.0.2.1","ipMode":"VIP"}]}`
	for _, tc := range []struct{ name, service, uid, shown, want string }{
		{"of this type", shown, "u1", "192.0.2.1", `{}`},
		{"of another type by now", leftOver, "u1", "192.0.2.1", `{}`},
		{"that shows something else", shown, "u1", "192.0.2.2", kept},
		{"of a new Service of that name", shown, "u0", "192.0.2.1", kept},
		{"that is empty", empty, "u1", "192.0.2.1", `{}`},
		{"that is gone", otherName, "u1", "192.0.2.1", `{}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, client := serve(t, tc.service)
			err := client.ClearLoadBalancerIPs(t.Context(), named("web", tc.uid), netip.MustParseAddr(tc.shown))
			if got := p.status(); got != tc.want || err != nil {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

func TestStatusForbidden(t *testing.T) {
	p, client := serve(t, empty)
	p.forbidden = true
	err := client.SetLoadBalancerIPs(t.Context(), named("web", "u1"), nil)
	if err == nil || !strings.Contains(err.Error(), "let the ClusterRole of this agent patch services/status") {
		t.Errorf("got %v", err)
	}
	if err := client.ListServices(t.Context(), func(*cluster.Service) {}); err == nil {
		t.Error("the list did not fail")
	}
}

// The list has what the feed has, page by page.
func TestListServices(t *testing.T) {
	p, client := serve(t, empty,
		`{metadata: {namespace: a, name: headless}, spec: {clusterIP: None}}`,
		`{metadata: {namespace: a, name: b}, spec: {clusterIP: 10.96.0.1}}`,
		`{metadata: {namespace: a, name: c}, spec: {clusterIP: 10.96.0.2}}`, otherName)
	var got []string
	err := client.ListServices(t.Context(), func(s *cluster.Service) { got = append(got, s.Key.String()) })
	if want := "default/web a/b a/c default/other"; err != nil || strings.Join(got, " ") != want || p.pages != 3 {
		t.Errorf("%q in %d pages, %v", got, p.pages, err)
	}
}
