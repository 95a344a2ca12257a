package watch

import (
	"compress/gzip"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kube-router/kube-router/internal/cluster"
)

// transports notes how requests come: "list HTTP/1.1 gzip".
type transports struct {
	api *apiServer

	mu   sync.Mutex
	seen map[string]int
	from map[string]bool // addresses of clients
}

func (h *transports) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := "list"
	if r.URL.Query().Get("watch") != "" {
		what = "watch"
	}
	h.mu.Lock()
	h.seen[strings.TrimSpace(fmt.Sprintf("%s %s %s", what, r.Proto, r.Header.Get("Accept-Encoding")))]++
	if what == "list" {
		h.from[r.RemoteAddr] = true
	}
	h.mu.Unlock()
	if r.Header.Get("Accept-Encoding") == "gzip" {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		w = compressed{w, z}
	}
	h.api.ServeHTTP(w, r)
}

type compressed struct {
	http.ResponseWriter
	z *gzip.Writer
}

func (c compressed) Write(p []byte) (int, error) { return c.z.Write(p) }

// TestListsAndWatchesHaveTheirOwnWays: lists come compressed by HTTP/1.1 and
// leave no connection behind, watches share one of HTTP/2.
func TestListsAndWatchesHaveTheirOwnWays(t *testing.T) {
	api := newAPIServer(t, false)
	api.put("a", clusterIP("10.96.0.1"))
	h := &transports{api: api, seen: map[string]int{}, from: map[string]bool{}}
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close) // after the client's end: it waits for the watches'
	f := &followed{apiServer: api, feeds: cluster.NewFeeds(), log: &logged{}, services: map[cluster.Key]*cluster.Service{}}
	f.feeds.Services.Subscribe(f.note)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	f.runWith(t, &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}})
	f.expect(t, "a >10.96.0.1")
	api.put("b", clusterIP("10.96.0.2"))
	f.expect(t, "b >10.96.0.2")
	api.forget() // so that it lists anew
	server.CloseClientConnections()
	eventually(t, "a second list", func() bool { return api.listed() == 2 })
	h.mu.Lock()
	defer h.mu.Unlock()
	for how := range h.seen {
		if how != "list HTTP/1.1 gzip" && how != "watch HTTP/2.0" {
			t.Errorf("a request came as %q", how)
		}
	}
	if lists := h.seen["list HTTP/1.1 gzip"]; lists != 2 || lists != len(h.from) {
		t.Errorf("%d lists came on %d connections", lists, len(h.from))
	}
}

// TestAListThatStopsIsGivenUp: the connection is dead, nobody says so.
func TestAListThatStopsIsGivenUp(t *testing.T) {
	text := serviceList(t, managed("a", "10.96.0.1"), managed("b", "10.96.0.2"))
	for name, sent := range map[string]int{"before it begins": 0, "in the middle": len(text) / 2} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if sent > 0 {
					_, _ = w.Write(text[:sent])
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			}))
			defer server.Close()
			client, err := newClient(&rest.Config{Host: server.URL}, Options{NodeName: "node-1", Log: (&logged{}).logger()})
			if err != nil {
				t.Fatal(err)
			}
			request := client.lists[groupVersions()[0]].Get().Resource("services")
			if _, err := readList(t.Context(), request, serviceStore().decode, 50*time.Millisecond); !errors.Is(err, errSilent) || isAnswer(err) {
				t.Errorf("it ends with: %v", err)
			}
		})
	}
}
