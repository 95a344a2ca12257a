//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

const localService = `
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: LoadBalancer
  loadBalancerClass: example.com/manual
  externalTrafficPolicy: Local
  selector: {app: server}
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
`

// Addresses that are accepted: see TestMain.
const vip, externalIP = "203.0.113.200", "198.51.100.10"

func TestLoadBalancer(t *testing.T) {
	ns := namespace(t)
	o := outside(t)
	serve(t, ns, "near", 2)
	client(t, ns, "client", 3)
	apply(t, ns, localService)
	ingress(t, ns, vip)
	answers := func(want string) func(string, error) bool {
		return func(out string, err error) bool { return err == nil && strings.HasPrefix(out, want) }
	}
	silent := func(out string, err error) bool { return err != nil && strings.Contains(out, "curl: (28)") }

	t.Run("traffic policy Local: the endpoint sees its client", func(t *testing.T) {
		o.sends(vip, 2)
		eventually(t, answers(o.ip+":"), "%s", o.get("http://"+vip+"/clientip"))
	})
	t.Run("a node without endpoint is silent", func(t *testing.T) {
		o.sends(vip, 3)
		eventually(t, silent, "%s", o.get("http://"+vip+"/clientip"))
	})
	t.Run("its pods, and itself, reach the endpoint elsewhere", func(t *testing.T) {
		connects(t, ns, "client", "http://"+vip+"/hostname")
		if out := onNode(t, 3, "curl -sS --max-time 5 http://"+vip+"/hostname"); out != "near" {
			t.Errorf("node 3 got %q", out)
		}
	})
	t.Run("load balancers are told which node has endpoints", func(t *testing.T) {
		port := must(t, "kubectl -n %s get service server -o jsonpath='{.spec.healthCheckNodePort}'", ns)
		for node, want := range map[int]string{2: `"localEndpoints":1`, 3: `"localEndpoints":0`} {
			eventually(t, func(out string, err error) bool {
				return err == nil && strings.Contains(strings.ReplaceAll(out, " ", ""), want)
			}, "%s", o.get("http://"+nodeIP(t, node)+":"+port))
		}
	})
	t.Run("only source ranges come in", func(t *testing.T) {
		patch := func(ranges string) {
			must(t, `kubectl -n %s patch service server -p '{"spec":{"externalTrafficPolicy":"Cluster","loadBalancerSourceRanges":[%s]}}'`, ns, ranges)
		}
		o.sends(vip, 1)
		patch(`"` + o.ip + `/32"`)
		eventually(t, answers("near"), "%s", o.get("http://"+vip+"/hostname"))
		patch(`"192.0.2.0/24"`)
		eventually(t, silent, "%s", o.get("http://"+vip+"/hostname"))
		// Nodes and what is in their network are clients as others.
		eventually(t, silent, "%s exec --node 3 %s", lab, quote("curl -sS --max-time 3 http://"+vip+"/hostname"))
	})
	t.Run("an address that sends to node ports is not ours", func(t *testing.T) {
		served := func(yes bool) func(string, error) bool {
			return func(out string, err error) bool { return err == nil && strings.Contains(out, vip) == yes }
		}
		const kernel = "%s exec --node 2 'ipvsadm -Ln; ip route show table local'"
		eventually(t, served(true), kernel, lab)
		must(t, `kubectl -n %s patch service server --subresource=status --type=merge -p '{"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"Proxy"}]}}}'`, ns, vip)
		eventually(t, served(false), kernel, lab)
	})
	t.Run("of two Services with one address and port the first by name is served", func(t *testing.T) {
		const claims = `
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {externalIPs: [%s], selector: {app: %s}, ports: [{port: 80, targetPort: 8080}]}
`
		apply(t, ns, fmt.Sprintf(claims, "second", externalIP, "client")) // where nothing listens
		apply(t, ns, fmt.Sprintf(claims, "first", externalIP, "server"))
		eventually(t, answers("near"), "%s", get(ns, "client", "http://"+externalIP+"/hostname"))
		event(t, ns, "second", "AddressInUse", externalIP+" port 80/tcp belongs to Service "+ns+"/first as well")
		connects(t, ns, "client", "http://"+externalIP+"/hostname")
	})
	t.Run("an address outside of the ranges is an Event", func(t *testing.T) {
		ingress(t, ns, "192.0.2.7")
		eventually(t, answers("AddressRefused"), "kubectl -n %s get events --field-selector involvedObject.name=server,reason=AddressRefused -o jsonpath='{.items[0].reason}'", ns)
	})
}

// Direct server return: the endpoint's node answers the client, whatever node
// got the request; also where the endpoint listens at another port, for pods
// and nodes as clients, and for a pod that is its own client.
func TestDirectServerReturn(t *testing.T) {
	ns := namespace(t)
	o := outside(t)
	serve(t, ns, "far", 2)
	client(t, ns, "client", 3)
	apply(t, ns, strings.NewReplacer("LoadBalancer\n  loadBalancerClass: example.com/manual", "ClusterIP\n  externalIPs: ["+externalIP+"]",
		"  externalTrafficPolicy: Local\n", "", "{name: server}", "{name: server, annotations: {kube-router.io/service.dsr: tunnel}}").Replace(localService))
	o.sends(externalIP, 1)
	eventually(t, func(out string, err error) bool { return err == nil && strings.HasPrefix(out, o.ip+":") }, "%s", o.get("http://"+externalIP+"/clientip"))

	t.Run("the answers come from the endpoint's node", func(t *testing.T) {
		mac := onNode(t, 2, "cat /sys/class/net/vec0/address")
		must(t, "%s", o.command("iptables -A INPUT -p tcp --sport 80 -m mac --mac-source %s && iptables -A INPUT -p tcp --sport 80 -m mac ! --mac-source %s", mac, mac))
		must(t, "%s", o.get("http://"+externalIP+"/hostname"))
		counters := must(t, "%s", o.command("iptables -L INPUT -v -n -x | awk 'NR>2{print $1}' | xargs"))
		if direct, others, _ := strings.Cut(counters, " "); direct == "0" || others != "0" {
			t.Errorf("packets from the endpoint's node and from others: %s", counters)
		}
		if out := onNode(t, 1, "ipvsadm -Ln"); !strings.Contains(out, "Tunnel") {
			t.Errorf("no tunnel in\n%s", out)
		}
	})
	t.Run("a megabyte in both directions", func(t *testing.T) {
		size := must(t, "%s", o.command(`head -c 1000000 /dev/zero | tr '\0' x | curl -sS --max-time 20 -F file=@- http://%s/upload -o /dev/null -w %%{size_upload}`, externalIP))
		if len(size) < 7 {
			t.Errorf("%s bytes went up", size)
		}
		size = must(t, "%s", o.command(`curl -sS --max-time 20 -o /dev/null -w %%{size_download} "http://%s/shell?cmd=head+-c+1000000+/dev/zero+|+base64"`, externalIP))
		if len(size) < 7 {
			t.Errorf("%s bytes came down", size)
		}
	})
	t.Run("clients of the cluster", func(t *testing.T) {
		for _, address := range []string{externalIP, clusterIP(t, ns)} {
			connects(t, ns, "client", "http://"+address+"/hostname")
			connects(t, ns, "far", "http://"+address+"/hostname")
			for node := 1; node <= 3; node++ {
				if out := onNode(t, node, "curl -sS --max-time 5 http://"+address+"/hostname"); out != "far" {
					t.Errorf("node %d got %q", node, out)
				}
			}
		}
	})
	t.Run("nothing is left of it", func(t *testing.T) {
		must(t, "kubectl -n %s delete service server", ns)
		for node := 1; node <= 3; node++ {
			eventually(t, func(out string, err error) bool {
				return err == nil && !strings.Contains(out, "FWM") && !strings.Contains(out, "tunl0") && !strings.Contains(out, externalIP)
			}, "%s exec --node %d 'ipvsadm -Ln; iptables-save; ip route show table local; ipset save'", lab, node)
		}
	})
}
