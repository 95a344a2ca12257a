package watch

import (
	"compress/gzip"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/kube-router/kube-router/internal/cluster"
)

// transports counts the ways in which requests come: "list HTTP/1.1 gzip close".
type transports struct {
	api *apiServer

	mu   sync.Mutex
	seen map[string]int
}

func (h *transports) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	way := []string{"list", r.Proto}
	if r.URL.Query().Get("watch") != "" {
		way[0] = "watch"
	}
	zip := r.Header.Get("Accept-Encoding") == "gzip"
	if zip {
		way = append(way, "gzip")
	}
	if r.Close {
		way = append(way, "close")
	}
	h.mu.Lock()
	h.seen[strings.Join(way, " ")]++
	h.mu.Unlock()
	if zip {
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
	h := &transports{api: api, seen: map[string]int{}}
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
	if diff := cmp.Diff(map[string]int{"list HTTP/1.1 gzip close": 2, "watch HTTP/2.0": h.seen["watch HTTP/2.0"]}, h.seen); diff != "" || h.seen["watch HTTP/2.0"] == 0 {
		t.Errorf("requests came otherwise (-want +got):\n%s", diff)
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
