//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const service = `
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: %s
  selector: {app: server}
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
  - {name: udp, port: 81, targetPort: 8081, protocol: UDP}
`

func clusterIP(t *testing.T, namespace string) string {
	t.Helper()
	return must(t, "kubectl -n %s get service server -o jsonpath='{.spec.clusterIP}'", namespace)
}

func TestClusterIP(t *testing.T) {
	ns := namespace(t)
	clientIP := client(t, ns, "client", 1)
	serve(t, ns, "near", 1)
	serve(t, ns, "far", 2)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	vip := clusterIP(t, ns)

	t.Run("TCP takes turns", func(t *testing.T) {
		seen := map[string]bool{}
		eventually(t, func(out string, err error) bool {
			if err == nil {
				seen[out] = true
			}
			return seen["near"] && seen["far"]
		}, "%s", get(ns, "client", "http://"+vip+"/hostname"))
	})
	t.Run("the source address of a pod is preserved", func(t *testing.T) {
		for range 4 {
			out := connects(t, ns, "client", "http://"+vip+"/clientip")
			if !strings.HasPrefix(out, clientIP+":") {
				t.Errorf("the server saw %s, the client is %s", out, clientIP)
			}
		}
	})
	t.Run("by name", func(t *testing.T) {
		connects(t, ns, "client", "http://server/hostname")
	})
	t.Run("UDP", func(t *testing.T) {
		eventually(t, func(out string, err error) bool { return err == nil && (out == "near" || out == "far") },
			"%s", in(ns, "client", "echo hostname | nc -u -w 2 "+vip+" 81"))
	})
	t.Run("from every node", func(t *testing.T) {
		for node := 1; node <= 3; node++ {
			for range 2 { // one for each server
				out := onNode(t, node, "curl -sS --max-time 5 http://"+vip+"/hostname")
				if out != "near" && out != "far" {
					t.Errorf("node %d got %q", node, out)
				}
			}
		}
	})
	t.Run("a port that no Service uses is refused", func(t *testing.T) {
		refused(t, ns, "client", "http://"+vip+":22")
		refused(t, ns, "client", "http://"+vip+":10250")
	})
}

func TestNodePort(t *testing.T) {
	ns := namespace(t)
	serve(t, ns, "server", 2)
	apply(t, ns, fmt.Sprintf(service, "NodePort"))
	port := must(t, "kubectl -n %s get service server -o jsonpath='{.spec.ports[0].nodePort}'", ns)
	for node := 1; node <= 3; node++ {
		ip := must(t, `kubectl get node node%d -o jsonpath='{.status.addresses[?(@.type=="InternalIP")].address}'`, node)
		eventually(t, func(out string, err error) bool { return err == nil && out == "server" },
			"curl -sS --noproxy '*' --max-time 3 http://%s:%s/hostname", ip, port)
	}
}

func TestHairpin(t *testing.T) {
	ns := namespace(t)
	serve(t, ns, "only", 3)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	out := connects(t, ns, "only", "http://"+clusterIP(t, ns)+"/hostname")
	if out != "only" {
		t.Errorf("the pod reached %q", out)
	}
}

func TestServiceFollowsItsEndpoints(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	vip := clusterIP(t, ns)
	refused(t, ns, "client", "http://"+vip+"/hostname")
	serve(t, ns, "server", 3)
	connects(t, ns, "client", "http://"+vip+"/hostname")
	// A Service that is given to another proxy is not there for us.
	must(t, "kubectl -n %s label service server service.kubernetes.io/service-proxy-name=another", ns)
	eventually(t, func(out string, err error) bool { return err == nil && !strings.Contains(out, vip) },
		"%s exec --node 1 'ipvsadm -Ln; ip route show table local; ipset list'", lab)
	must(t, "kubectl -n %s label service server service.kubernetes.io/service-proxy-name-", ns)
	connects(t, ns, "client", "http://"+vip+"/hostname")
	must(t, "kubectl -n %s delete pod server", ns)
	refused(t, ns, "client", "http://"+vip+"/hostname")
	must(t, "kubectl -n %s delete service server", ns)
	for node := 1; node <= 3; node++ {
		eventually(t, func(out string, err error) bool { return err == nil && !strings.Contains(out, vip) },
			"%s exec --node %d 'ipvsadm -Ln; ip route show table local; ipset list'", "$LAB", node)
	}
}
