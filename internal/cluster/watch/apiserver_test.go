package watch

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// apiServer is an API server that has Services, takes Events, and forgets its
// history when told to. It refuses what a real one refuses.
type apiServer struct {
	t *testing.T
	// streams says that it can stream a list as a watch (KEP-3157).
	streams bool
	address string
	server  *http.Server

	mu        sync.Mutex
	changed   chan struct{} // closed and renewed with each change
	version   int
	services  map[string]*corev1.Service
	history   []historic
	forgotten int // versions up to here have no history
	forbidden bool
	requests  []string // paths, each once
	lists     int      // lists given, streamed or not
	events    []*corev1.Event
}

type historic struct {
	version int
	event   metav1.WatchEvent
}

func newAPIServer(t *testing.T, streams bool) *apiServer {
	a := &apiServer{t: t, streams: streams, address: "127.0.0.1:0", changed: make(chan struct{}), version: 100, services: map[string]*corev1.Service{}}
	a.start()
	t.Cleanup(a.stop)
	return a
}

// start listens, on the same address as before.
func (a *apiServer) start() {
	a.t.Helper()
	listener, err := net.Listen("tcp", a.address)
	if err != nil {
		a.t.Fatal(err)
	}
	a.address = listener.Addr().String()
	a.server = &http.Server{Handler: a}
	go a.server.Serve(listener)
}

// stop cuts all connections.
func (a *apiServer) stop() { a.server.Close() }

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	if !slices.Contains(a.requests, r.URL.Path) {
		a.requests = append(a.requests, r.URL.Path)
	}
	forbidden := a.forbidden
	a.mu.Unlock()
	query := r.URL.Query()
	switch {
	case strings.HasSuffix(r.URL.Path, "/events") && r.Method == http.MethodPost:
		a.postEvent(w, r)
	case r.URL.Path != "/api/v1/services":
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "no such resource")
	case forbidden:
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, `services is forbidden: User "system:serviceaccount:kube-system:kube-router" cannot list resource "services"`)
	case query.Get("watch") == "":
		a.list(w)
	case query.Get("sendInitialEvents") == "true" && !a.streams:
		refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden for watch")
	default:
		a.watch(w, r)
	}
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

func (a *apiServer) list(w http.ResponseWriter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lists++
	list := corev1.ServiceList{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceList"},
		ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(a.version)},
	}
	for _, s := range a.services {
		list.Items = append(list.Items, *s)
	}
	w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
	w.Write(protobufOf(a.t, "ServiceList", &list))
}

// protobufOf is an object of the API as the API server sends it.
func protobufOf(t testing.TB, kind string, o interface{ Marshal() ([]byte, error) }) []byte {
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: kind}, Raw: raw}
	text, err := unknown.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(slices.Clone(protobufMagic), text...)
}

func (a *apiServer) watch(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	a.mu.Lock()
	from, _ := strconv.Atoi(query.Get("resourceVersion"))
	var backlog []metav1.WatchEvent
	if query.Get("sendInitialEvents") == "true" {
		backlog, from = a.initialEvents(), a.version
	} else if from < a.forgotten {
		a.mu.Unlock()
		refuse(w, http.StatusGone, metav1.StatusReasonExpired, fmt.Sprintf("too old resource version: %d (%d)", from, a.forgotten))
		return
	}
	a.mu.Unlock()

	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	for {
		for _, event := range backlog {
			if encoder.Encode(event) != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		var next <-chan struct{}
		backlog, from, next = a.since(from)
		if len(backlog) > 0 {
			continue
		}
		select {
		case <-next:
		case <-r.Context().Done():
			return
		}
	}
}

// initialEvents is the list as events and the bookmark that ends it.
func (a *apiServer) initialEvents() []metav1.WatchEvent {
	a.lists++
	var events []metav1.WatchEvent
	for _, s := range a.services {
		events = append(events, metav1.WatchEvent{Type: "ADDED", Object: raw(s)})
	}
	end := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: strconv.Itoa(a.version),
			Annotations:     map[string]string{metav1.InitialEventsAnnotationKey: "true"},
		},
	}
	return append(events, metav1.WatchEvent{Type: "BOOKMARK", Object: raw(end)})
}

// since is what happened after a version, the version of the last of it, and
// what is closed when there is more.
func (a *apiServer) since(version int) ([]metav1.WatchEvent, int, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var events []metav1.WatchEvent
	for _, h := range a.history {
		if h.version > version {
			events, version = append(events, h.event), h.version
		}
	}
	return events, version, a.changed
}

func raw(o runtime.Object) runtime.RawExtension {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return runtime.RawExtension{Raw: data}
}

func (a *apiServer) record(kind string, s *corev1.Service) {
	a.history = append(a.history, historic{a.version, metav1.WatchEvent{Type: kind, Object: raw(s)}})
	close(a.changed)
	a.changed = make(chan struct{})
}

// put creates or updates the Service default/name.
func (a *apiServer) put(name string, spec corev1.ServiceSpec) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	kind := "ADDED"
	if a.services[name] != nil {
		kind = "MODIFIED"
	}
	s := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID("uid-" + name), ResourceVersion: strconv.Itoa(a.version),
		},
		Spec: spec,
	}
	a.services[name] = s
	a.record(kind, s)
}

func (a *apiServer) remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	s := a.services[name]
	s.ResourceVersion = strconv.Itoa(a.version)
	delete(a.services, name)
	a.record("DELETED", s)
}

// forget drops the history, as etcd's compaction does.
func (a *apiServer) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	a.forgotten = a.version
	a.history = nil
}

func (a *apiServer) forbid(forbidden bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forbidden = forbidden
}

// postEvent takes an Event, which arrives as protobuf.
func (a *apiServer) postEvent(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	decoded, _, err := newCodecs().UniversalDeserializer().Decode(body, nil, nil)
	event, ok := decoded.(*corev1.Event)
	if err != nil || !ok {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, fmt.Sprintf("not an Event: %v", err))
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Name == event.Name && e.Namespace == event.Namespace {
			refuse(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, "it exists")
			return
		}
	}
	a.events = append(a.events, event)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(event)
}

func (a *apiServer) taken() []*corev1.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.events)
}

func (a *apiServer) asked() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

func (a *apiServer) listed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lists
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}
