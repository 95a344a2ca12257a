package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/admin"
)

var now = time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func well() admin.Status {
	return admin.Status{
		Version: "v3.0.0", Node: "node1", Started: ago(3*time.Hour + 12*time.Minute),
		Controllers: []admin.Controller{
			{Name: "routes", State: admin.Running, LastSync: ago(12 * time.Second), Objects: []admin.Objects{{Kind: "routes", Desired: 2, Programmed: 2}}},
			{Name: "services", State: admin.Running, LastSync: ago(3 * time.Second), Objects: []admin.Objects{
				{Kind: "services", Desired: 120, Programmed: 120}, {Kind: "virtual_servers", Desired: 340, Programmed: 340}}},
			{Name: "policy", State: admin.Running, LastSync: ago(4 * time.Minute), Objects: []admin.Objects{
				{Kind: "policies", Desired: 12, Programmed: 12}, {Kind: "pods", Desired: 7, Programmed: 7}}},
			{Name: "loadbalancer", State: admin.Off, Reason: "turned off by its flag"},
		},
		Peers: []admin.Peer{
			{Address: netip.MustParseAddr("10.0.0.2"), Node: "node2", ASN: 64512, Role: "reflector", State: "Established", Since: ago(3 * time.Hour), Accepted: 1, Received: 3, Advertised: 2, BFD: "Down"},
			{Address: netip.MustParseAddr("10.0.0.3"), Node: "node3", ASN: 64512, Role: "mesh", State: "Established", Since: ago(50 * time.Hour), Accepted: 1},
		},
	}
}

func ill() admin.Status {
	s := well()
	s.Wrong = []string{
		"no BGP session with 10.0.0.3 (node3): connection refused",
		"services cannot do: service default/web: ipvsadm -A -t 10.96.0.7:80 -s wrr: no such file or directory (the kernel has no scheduler \"wrr\": load it with modprobe ip_vs_wrr)",
	}
	s.Controllers[1].Objects[0].Programmed = 119
	s.Controllers[1].PendingCount = 1
	s.Controllers[1].Pending = []admin.Pending{{
		What: "service default/web", Since: ago(95 * time.Second), Attempts: 8, Failed: true,
		Reason: "ipvsadm -A -t 10.96.0.7:80 -s wrr: no such file or directory (the kernel has no scheduler \"wrr\": load it with modprobe ip_vs_wrr)",
	}}
	s.Controllers[2].State = admin.Starting
	s.Peers[1].State, s.Peers[1].Since, s.Peers[1].Accepted, s.Peers[1].LastError = "Active", time.Time{}, 0, "connection refused\x1b[2J"
	s.Advice = []admin.Advice{{
		Reason: "KubeProxyRunning", Severity: "warning", Since: ago(time.Hour),
		Message: "kube-proxy runs on this node (its port 10249 answers) beside kube-router's service proxy. Remove it, 'kubectl -n kube-system delete daemonset kube-proxy'.",
	}}
	return s
}

func TestScreen(t *testing.T) {
	for name, c := range map[string]struct {
		status admin.Status
		want   string
	}{
		"well": {well(), `
kube-router v3.0.0 on node1, up 3h12m
all is well

CONTROLLER    STATE    LAST SYNC  PENDING  IN THE KERNEL
routes        running  12s ago    0        2 routes
services      running  3s ago     0        120 services, 340 virtual servers
policy        running  4m0s ago   0        12 policies, 7 pods
loadbalancer  off                          turned off by its flag

BGP PEERS, 2 of 2 up
PEER      NODE   ASN    STATE        SINCE  ROUTES  LAST ERROR
10.0.0.2  node2  64512  Established  3h0m   1
10.0.0.3  node3  64512  Established  2d2h   1
`},
		"ill": {ill(), `
kube-router v3.0.0 on node1, up 3h12m
wrong: no BGP session with 10.0.0.3 (node3): connection refused
wrong: services cannot do: service default/web: ipvsadm -A -t 10.96.0.7:80 -s
wrr: no such file or directory (the kernel has no scheduler "wrr": load it with
modprobe ip_vs_wrr)

CONTROLLER    STATE     LAST SYNC  PENDING  IN THE KERNEL
routes        running   12s ago    0        2 routes
services      running   3s ago     1        119 of 120 services, 340 virtual se…
policy        starting  4m0s ago   0        12 policies, 7 pods
loadbalancer  off                           turned off by its flag

PENDING
services: service default/web, for 1m35s, 8 attempts
    ipvsadm -A -t 10.96.0.7:80 -s wrr: no such file or directory (the kernel has
    no scheduler "wrr": load it with modprobe ip_vs_wrr)

BGP PEERS, 1 of 2 up
PEER      NODE   ASN    STATE        SINCE  ROUTES  LAST ERROR
10.0.0.3  node3  64512  Active       -      0       connection refused [2J
10.0.0.2  node2  64512  Established  3h0m   1

ADVICE
KubeProxyRunning (warning, for 1h0m)
    kube-proxy runs on this node (its port 10249 answers) beside kube-router's
    service proxy. Remove it, 'kubectl -n kube-system delete daemonset
    kube-proxy'.
`},
	} {
		t.Run(name, func(t *testing.T) {
			got := (&command{now: now}).screen(c.status)
			if d := cmp.Diff(strings.TrimPrefix(c.want, "\n"), got); d != "" {
				t.Error(d)
			}
			coloured := (&command{now: now, paint: true}).screen(c.status)
			if without := removeColours(coloured); without != got || coloured == got {
				t.Errorf("colours change more than the colour:\n%s", cmp.Diff(got, without))
			}
		})
	}
}

func removeColours(s string) string {
	for _, c := range []colour{bold, green, yellow, red, "\x1b[0m"} {
		s = strings.ReplaceAll(s, string(c), "")
	}
	return s
}

func expectNarrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// agent is a server with views, and what a command line against it prints.
func agent(t *testing.T, v admin.Views) func(args ...string) (stdout, stderr string, status int) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	s := admin.NewServer(socket, slog.New(slog.NewTextHandler(io.Discard, nil)))
	s.Show(v)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return func(args ...string) (string, string, int) {
		var stdout, stderr bytes.Buffer
		status := Run(t.Context(), append(args, "--socket="+socket), &stdout, &stderr)
		return stdout.String(), stderr.String(), status
	}
}

func TestExitStatus(t *testing.T) {
	var status admin.Status
	run := agent(t, admin.Views{Status: func(context.Context) admin.Status { return status }, Sets: func() []admin.Set { return nil }})
	for _, c := range []struct {
		status admin.Status
		args   string
		want   int
		stderr string
	}{
		{well(), "status", 0, ""},
		{ill(), "status", 1, ""},
		{ill(), "status -o json", 1, ""},
		{ill(), "show sets", 0, ""},
		{well(), "show services", 1, "kube-router show: no services here: the services controller is off\n"},
		{well(), "show", 2, "kube-router show: one of peers, routes, services, policies or sets must follow\n"},
		{well(), "show cats", 2, "kube-router show: cats: there is nothing such to show; allowed is one of peers, routes, services, policies or sets\n"},
		{well(), "status now", 2, "kube-router status: unexpected argument now\n"},
		{well(), "status -o yaml", 2, "kube-router status: --output=yaml: allowed are json and wide\n"},
		{well(), "status --watch", 2, "kube-router status: unknown flag: --watch; 'kube-router --help' lists what there is\n"},
	} {
		status = c.status
		stdout, stderr, got := run(strings.Fields(c.args)...)
		if got != c.want || stderr != c.stderr || (got == exitUsage) != (stdout == "" && stderr != "" && got != 1) {
			t.Errorf("%s: exit status %d, want %d; stderr %q, want %q", c.args, got, c.want, stderr, c.stderr)
		}
	}
	if stdout, _, got := run("status", "--help"); got != 0 || stdout != Usage() {
		t.Errorf("help: exit status %d, %q", got, stdout)
	}
}

func TestNoAgent(t *testing.T) {
	var stdout, stderr bytes.Buffer
	got := Run(t.Context(), []string{"status", "--socket=" + filepath.Join(t.TempDir(), "none")}, &stdout, &stderr)
	if got != 1 || stdout.Len() > 0 || !strings.HasPrefix(stderr.String(), "kube-router status: no kube-router runs here") {
		t.Errorf("exit status %d, %q, %q", got, stdout.String(), stderr.String())
	}
}

func endpoint(address string, port uint16, weight uint32) admin.Endpoint {
	return admin.Endpoint{Address: netip.MustParseAddr(address), Port: port, Weight: weight}
}

func views() admin.Views {
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	return admin.Views{
		Peers: func() []admin.Peer { return ill().Peers },
		Routes: func() []admin.Route {
			return []admin.Route{
				{Prefix: p("10.244.2.0/24"), NextHops: []admin.NextHop{{Via: a("10.0.0.2"), Link: "eth0"}}, State: admin.Programmed},
				{Prefix: p("10.244.3.0/24"), NextHops: []admin.NextHop{{Via: a("10.0.0.3"), Link: "eth0"}}, State: admin.Failed, Reason: "device or resource busy"},
				{Prefix: p("10.9.0.0/16"), State: admin.Unused, Reason: "next hop 172.16.0.1 is on no network of this node"},
			}
		},
		Services: func() []admin.Service {
			return []admin.Service{
				{Namespace: "default", Name: "web", State: admin.Programmed, Refused: []string{`annotation kube-router.io/service.scheduler: "best" is not one of rr, wrr; rr is used`},
					Servers: []admin.VirtualServer{
						{Protocol: "tcp", Address: a("10.96.0.7"), Port: 80, Scheduler: "rr", Endpoints: []admin.Endpoint{endpoint("10.244.1.2", 8080, 1), endpoint("10.244.2.2", 8080, 0)}},
						{Protocol: "tcp", Address: a("10.96.0.7"), Port: 443, Scheduler: "rr", Endpoints: []admin.Endpoint{endpoint("10.244.1.2", 8443, 1)}},
						{Protocol: "tcp", Address: a("192.168.66.11"), Port: 30080, Scheduler: "rr", Endpoints: []admin.Endpoint{endpoint("10.244.1.2", 8080, 1)}},
					}},
				{Namespace: "kube-system", Name: "dns6", State: admin.Waiting, Servers: []admin.VirtualServer{{Protocol: "udp", Address: a("fd00:96::a"), Port: 53}}},
			}
		},
		Policies: func() []admin.Policy {
			return []admin.Policy{
				{Namespace: "shop", Name: "db", Directions: []string{"ingress"}, Pods: []string{"db-0", "db-1"}, State: admin.Programmed},
				{Namespace: "shop", Name: "all", Directions: []string{"ingress", "egress"}, State: admin.Unused},
			}
		},
		Sets: func() []admin.Set {
			return []admin.Set{{Controller: "services", Name: "kube-router-svip", Type: "hash:ip", Family: "IPv4", Entries: 120, MaxEntries: 1 << 20, State: admin.Programmed}}
		},
	}
}

func TestShow(t *testing.T) {
	run := agent(t, views())
	for args, want := range map[string]string{
		"peers": `
PEER      NODE   ASN    STATE        SINCE ROUTES  LAST ERROR
10.0.0.2  node2  64512  Established  AGE 1
10.0.0.3  node3  64512  Active       - 0       connection refused [2J
`,
		"peers -o wide": `
PEER      NODE   ASN    ROLE       STATE        SINCE ACCEPTED  RECEIVED  ADVERTISED  BFD   LAST ERROR
10.0.0.2  node2  64512  reflector  Established  AGE 1         3         2           Down
10.0.0.3  node3  64512  mesh       Active       - 0         0         0           -     connection refused [2J
`,
		"routes": `
PREFIX         NEXT HOPS              STATE       REASON
10.244.2.0/24  via 10.0.0.2 dev eth0  programmed
10.244.3.0/24  via 10.0.0.3 dev eth0  failed      device or resource busy
10.9.0.0/16    -                      unused      next hop 172.16.0.1 is on no …
`,
		"routes -o wide": `
PREFIX         NEXT HOPS              STATE       REASON
10.244.2.0/24  via 10.0.0.2 dev eth0  programmed
10.244.3.0/24  via 10.0.0.3 dev eth0  failed      device or resource busy
10.9.0.0/16    -                      unused      next hop 172.16.0.1 is on no network of this node
`,
		"services": `
SERVICE           ADDRESS       PORTS           ENDPOINTS  STATE       REASON
default/web       10.96.0.7 +1  80/tcp,443/tcp  2          programmed  annotati…
kube-system/dns6  fd00:96::a    53/udp          0          pending
`,
		"services -o wide": `
SERVICE           VIRTUAL SERVER           SCHEDULER  ENDPOINTS                                  STATE       REASON
default/web       tcp 10.96.0.7:80         rr         10.244.1.2:8080, 10.244.2.2:8080 weight 0  programmed  annotation kube-router.io/service.scheduler: "best" is not one of rr, wrr; rr is used
default/web       tcp 10.96.0.7:443        rr         10.244.1.2:8443                            programmed  annotation kube-router.io/service.scheduler: "best" is not one of rr, wrr; rr is used
default/web       tcp 192.168.66.11:30080  rr         10.244.1.2:8080                            programmed  annotation kube-router.io/service.scheduler: "best" is not one of rr, wrr; rr is used
kube-system/dns6  udp [fd00:96::a]:53      -          none                                       pending
`,
		"policies": `
POLICY    ISOLATES        PODS HERE  STATE       REASON
shop/db   ingress         2          programmed
shop/all  ingress,egress  0          unused
`,
		"policies -o wide": `
POLICY    ISOLATES        PODS HERE   STATE       REASON
shop/db   ingress         db-0, db-1  programmed
shop/all  ingress,egress  none        unused
`,
		"sets": `
SET               TYPE     ENTRIES  OF       STATE
kube-router-svip  hash:ip  120      1048576  programmed
`,
		"sets -o wide": `
SET               TYPE     ENTRIES  OF       STATE       FAMILY  CONTROLLER
kube-router-svip  hash:ip  120      1048576  programmed  IPv4    services
`,
	} {
		t.Run(args, func(t *testing.T) {
			got, stderr, status := run(append([]string{"show"}, strings.Fields(args)...)...)
			if status != 0 || stderr != "" {
				t.Fatalf("exit status %d, %q", status, stderr)
			}
			if d := cmp.Diff(strings.TrimPrefix(want, "\n"), withoutAge(got)); d != "" {
				t.Error(d)
			}
			if !strings.Contains(args, "wide") {
				expectNarrow(t, got)
			}
		})
	}
}

// established is a session's state with its age, which goes on.
var established = regexp.MustCompile(`Established  \S+ +`)

func withoutAge(text string) string {
	if !established.MatchString(text) {
		return text
	}
	text = established.ReplaceAllString(text, "Established  AGE ")
	return regexp.MustCompile(`SINCE +`).ReplaceAllString(regexp.MustCompile(`- +0`).ReplaceAllString(text, "- 0"), "SINCE ")
}

func TestJSON(t *testing.T) {
	run := agent(t, views())
	got, _, _ := run("show", "peers", "-o", "json")
	want := `{
  "items": [
    {
      "address": "10.0.0.2",
      "node": "node2",
      "asn": 64512,
      "role": "reflector",
      "state": "Established",
      "since": "2026-11-22T23:00:00Z",
      "received": 3,
      "accepted": 1,
      "advertised": 2,
      "bfd": "Down"
    },
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s",
		47*time.Hour + 59*time.Minute: "47h59m", 50 * time.Hour: "2d2h",
	} {
		if got := age(ago(d), now); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("never: %s", got)
	}
}

func TestHelpIsNarrow(t *testing.T) { expectNarrow(t, Usage()) }

// A Service without virtual servers is listed with the reason.
func TestServiceWithoutServers(t *testing.T) {
	run := agent(t, admin.Views{Services: func() []admin.Service {
		return []admin.Service{{Namespace: "default", Name: "web", State: admin.Failed, Reason: "the kernel has no IPVS"}}
	}})
	for args, want := range map[string]string{
		"show services":         "default/web  -        -      0          failed  the kernel has no IPVS",
		"show services -o wide": "default/web  -               -          -          failed  the kernel has no IPVS",
	} {
		if got, _, _ := run(strings.Fields(args)...); !strings.Contains(got, want) {
			t.Errorf("%s: no line %q in\n%s", args, want, got)
		}
	}
}
