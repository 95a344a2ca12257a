package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
)

func (a *agent) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		for name, c := range a.controllers {
			select {
			case <-c.Ready():
			default:
				http.Error(w, name+" not ready", 503)
				return
			}
		}
	})
	l, err := net.Listen("tcp", a.cfg.HealthAddress)
	if err != nil {
		return err
	}
	go http.Serve(l, mux)
	<-ctx.Done()
	return nil
}
