//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// realServers lists the real servers of a virtual server on a node, "pod
// weight"; where the node has no such virtual server, that is all it lists.
func realServers(t *testing.T, node int, virtual string, names map[string]string) []string {
	t.Helper()
	out, err := sh(t.Context(), fmt.Sprintf("%s exec --node %d 'ipvsadm -Ln -t %s'", lab, node, virtual))
	if err != nil {
		return []string{out}
	}
	var got []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 6 && f[0] == "->" && f[3] != "Weight" {
			ip, _, _ := strings.Cut(f[1], ":")
			got = append(got, names[ip]+" "+f[3])
		}
	}
	slices.Sort(got)
	return got
}

// wantReal waits for the real servers of a virtual server.
func wantReal(t *testing.T, node int, virtual string, names map[string]string, want ...string) {
	t.Helper()
	var got []string
	deadline, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for deadline.Err() == nil {
		if got = realServers(t, node, virtual, names); slices.Equal(got, want) {
			return
		}
		select {
		case <-deadline.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
	t.Errorf("node %d, %s: real servers %q, want %q", node, virtual, got, want)
}

// Each scheduler is the kernel's own, and connections go through it.
func TestSchedulers(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	names := map[string]string{serve(t, ns, "a", 2): "a", serve(t, ns, "b", 3): "b"}
	all := []string{"rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh"}
	later(t, "kubectl annotate node node3 kube-router.io/node.weight-")
	must(t, "kubectl annotate --overwrite node node3 kube-router.io/node.weight=3")
	var services strings.Builder
	for _, s := range all {
		fmt.Fprintf(&services, `
apiVersion: v1
kind: Service
metadata: {name: %[1]s, annotations: {kube-router.io/service.scheduler: %[1]s}}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---`, s)
	}
	apply(t, ns, services.String())
	for _, s := range all {
		vip := must(t, "kubectl -n %s get service %s -o jsonpath='{.spec.clusterIP}'", ns, s)
		eventually(t, func(out string, err error) bool { return err == nil && strings.Contains(out, vip+":80 "+s) }, "%s exec --node 1 'ipvsadm -Ln'", lab)
		wantReal(t, 1, vip+":80", names, "a 1", "b 3")
		connects(t, ns, "client", "http://"+vip+"/hostname")
		if s != "wrr" {
			continue
		}
		out := must(t, "%s", in(ns, "client", "for i in $(seq 40); do curl -sS --max-time 3 http://"+vip+"/hostname; echo; done"))
		if got := strings.Count(out, "b"); got != 30 {
			t.Errorf("%d of 40 connections went to the endpoint of weight 3, want 30:\n%s", got, out)
		}
	}
}

// Endpoints near the client come first where the Service says so.
func TestNearEndpoints(t *testing.T) {
	ns := namespace(t)
	names := map[string]string{}
	for n := 1; n <= 3; n++ {
		names[serve(t, ns, fmt.Sprint("on", n), n)] = fmt.Sprint("on", n)
		zone := map[bool]string{true: "east", false: "west"}[n < 3]
		later(t, "kubectl label node node%d topology.kubernetes.io/zone-", n)
		must(t, "kubectl label --overwrite node node%d topology.kubernetes.io/zone=%s", n, zone)
	}
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	virtual := clusterIP(t, ns) + ":80"
	wantReal(t, 1, virtual, names, "on1 1", "on2 1", "on3 1")

	patch := func(spec string) { must(t, "kubectl -n %s patch service server -p '{\"spec\":{%s}}'", ns, spec) }
	// Those that get nothing new have weight 0.
	patch(`"trafficDistribution":"PreferClose"`)
	wantReal(t, 1, virtual, names, "on1 1", "on2 1", "on3 0")
	wantReal(t, 3, virtual, names, "on1 0", "on2 0", "on3 1")
	must(t, "kubectl -n %s delete pod on3", ns)
	wantReal(t, 3, virtual, names, "on1 1", "on2 1") // none near is left

	patch(`"trafficDistribution":null,"internalTrafficPolicy":"Local"`)
	wantReal(t, 1, virtual, names, "on1 1")
	wantReal(t, 2, virtual, names, "on2 1")
	silentOnNode(t, 3, "http://"+virtual+"/hostname")
}

// The endpoints of a Service may come from slices that somebody wrote, with a
// port for each name that differs from slice to slice.
func TestNamedPortsOfSlices(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	names := map[string]string{serve(t, ns, "a", 2): "a", serve(t, ns, "b", 3): "b"}
	apply(t, ns, strings.Replace(fmt.Sprintf(service, "ClusterIP"), "  selector: {app: server}\n", "", 1))
	const slice = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: server-%[1]s, labels: {kubernetes.io/service-name: server}}
addressType: IPv4
endpoints: [{addresses: [%[2]s]}]
ports: [{name: http, port: %[3]d, protocol: TCP}]
`
	vip := clusterIP(t, ns)
	ips := slices.Sorted(maps.Keys(names))
	for i, ip := range ips {
		apply(t, ns, fmt.Sprintf(slice, strconv.Itoa(i), ip, 8080))
	}
	wantReal(t, 1, vip+":80", names, "a 1", "b 1")
	apply(t, ns, fmt.Sprintf(slice, "bad", vip, 8080)) // it would be its own endpoint
	event(t, ns, "server-bad", "BadEndpoint", "the first is "+vip)
	wantReal(t, 1, vip+":80", names, "a 1", "b 1")
	apply(t, ns, fmt.Sprintf(slice, "1", ips[1], 8082))
	eventually(t, func(out string, err error) bool {
		return err == nil && strings.Contains(out, ips[0]+":8080") && strings.Contains(out, ips[1]+":8082") && !strings.Contains(out, ips[1]+":8080")
	}, "%s exec --node 1 'ipvsadm -Ln -t %s:80'", lab, vip)
	must(t, "kubectl -n %s delete endpointslice server-1", ns)
	wantReal(t, 1, vip+":80", names, names[ips[0]]+" 1")
	connects(t, ns, "client", "http://"+vip+"/hostname")
}

func TestNodePortsAtEveryAddress(t *testing.T) {
	ns := namespace(t)
	serve(t, ns, "server", 2)
	apply(t, ns, fmt.Sprintf(service, "NodePort"))
	port := must(t, "kubectl -n %s get service server -o jsonpath='{.spec.ports[0].nodePort}'", ns)
	later(t, "%s exec --node 1 'ip address del 192.0.2.77/32 dev vec0'", lab)
	onNode(t, 1, "ip address add 192.0.2.77/32 dev vec0")
	o := outside(t)
	o.sends("192.0.2.77", 1)
	eventually(t, succeeds, "%s", o.get("http://192.0.2.77:"+port+"/hostname"))
}

// An endpoint is taken from a Service, its Pod's label, while a connection to it
// is open: that goes on, at weight 0.
func TestAConnectionOutlivesItsEndpoint(t *testing.T) {
	ns := namespace(t)
	client(t, ns, "client", 1)
	names := map[string]string{serve(t, ns, "a", 2): "a", serve(t, ns, "b", 3): "b"}
	apply(t, ns, fmt.Sprintf(service, "ClusterIP"))
	vip := clusterIP(t, ns)
	connects(t, ns, "client", "http://"+vip+"/hostname")
	const requests = 12
	answered := make(chan string, 1)
	go func() {
		out, _ := sh(t.Context(), in(ns, "client", fmt.Sprintf(`(for i in $(seq 2 %d); do printf 'GET /hostname HTTP/1.1\r\nHost: a\r\n\r\n'; sleep 1; done
			printf 'GET /hostname HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'; sleep 3) | timeout 60 nc %s 80 | grep -o 'HTTP/1.1 200' | wc -l`, requests, vip)))
		answered <- out
	}()
	to := eventually(t, func(out string, err error) bool { return err == nil && strings.HasSuffix(out, ":8080") },
		"%s exec --node 1 \"ipvsadm -Lnc | grep ESTABLISHED | grep %s:80 | awk '{print \\$6}'\"", lab, vip)
	goes := names[strings.TrimSuffix(to, ":8080")]
	stays := map[string]string{"a": "b", "b": "a"}[goes]
	must(t, "kubectl -n %s label pod %s app-", ns, goes)
	during := []string{goes + " 0", stays + " 1"}
	slices.Sort(during)
	wantReal(t, 1, vip+":80", names, during...)
	for range 4 {
		if out := connects(t, ns, "client", "http://"+vip+"/hostname"); out != stays {
			t.Errorf("a new connection went to %s", out)
		}
	}
	if out := <-answered; out != fmt.Sprint(requests) {
		t.Errorf("of %d requests over the connection %s were answered", requests, out)
	}
	wantReal(t, 1, vip+":80", names, stays+" 1") // soon after the last connection
}
