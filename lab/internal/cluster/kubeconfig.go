package cluster

import (
	"encoding/json"
)

// kubeconfig is the client configuration of one user. JSON is YAML too, so
// every client of Kubernetes reads it.
func (a *authority) kubeconfig(server, user, group string) ([]byte, pair, error) {
	p, err := a.client(user, group)
	if err != nil {
		return nil, p, err
	}
	type named map[string]any
	data, err := json.MarshalIndent(named{
		"apiVersion": "v1", "kind": "Config", "current-context": "lab",
		"contexts": []named{{"name": "lab", "context": named{"cluster": "lab", "user": user}}},
		"clusters": []named{{"name": "lab", "cluster": named{"server": server, "certificate-authority-data": a.pem.cert}}},
		"users":    []named{{"name": user, "user": named{"client-certificate-data": p.cert, "client-key-data": p.key}}},
	}, "", "  ")
	return append(data, '\n'), p, err
}
