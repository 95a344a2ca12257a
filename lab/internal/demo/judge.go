package demo

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The criteria, in the words of the exercise.
const (
	critNodes        = "Cluster nodes reach Ready status with kube-router as CNI"
	critRoutes       = "BGP routes visible in routing table (ip route show proto 17)"
	critIPVS         = "IPVS virtual server with three real servers for the web Service"
	critReach        = "Client pod can reach web Service via ClusterIP and by name"
	critDeny         = "Default deny policy blocks all ingress traffic"
	critAllow        = "Specific allow policy permits client to reach web"
	critUnauthorized = "Unauthorized pod remains blocked by NetworkPolicy"
	critMemory       = "Agent memory at most 50 MB resident (ours, not the exercise's)"
	critStatus       = "kube-router status finds nothing wrong (ours, not the exercise's)"
)

var (
	criteria = []string{critNodes, critRoutes, critIPVS, critReach, critDeny, critAllow, critUnauthorized}
	// besides are ours; they are not counted.
	besides = []string{critMemory, critStatus}
)

// judgeNodes wants every line of "kubectl get nodes" to be Ready.
func (w *walk) judgeNodes(out string) {
	ready, all := countReady(out)
	w.judge(critNodes, all == w.nodes && ready == all, fmt.Sprintf("%d of %d nodes Ready", ready, w.nodes))
}

// countReady counts the nodes in the output of "kubectl get nodes".
func countReady(out string) (ready, all int) {
	for _, line := range lines(out) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] == "NAME" {
			continue
		}
		all++
		if fields[1] == "Ready" {
			ready++
		}
	}
	return ready, all
}

// node is what the routes are judged by.
type node struct{ name, ip, podCIDR string }

func (w *walk) nodeTable() []node {
	out := w.must(`kubectl get nodes -o jsonpath='{range .items[*]}{.metadata.name} {.status.addresses[?(@.type=="InternalIP")].address} {.spec.podCIDR}{"\n"}{end}'`)
	var table []node
	for _, line := range lines(out) {
		if f := strings.Fields(line); len(f) == 3 {
			table = append(table, node{f[0], f[1], f[2]})
		}
	}
	return table
}

// judgeRoutes wants, on every node, a route to every other node's pods.
func (w *walk) judgeRoutes() {
	nodes := w.nodeTable()
	var missing []string
	for _, agent := range w.agents() {
		out := w.until(func(out string) bool { return len(missingRoutes(out, agent.node, nodes)) == 0 },
			"kubectl -n kube-system exec "+agent.pod+" -- ip route show proto 17")
		missing = append(missing, missingRoutes(out, agent.node, nodes)...)
	}
	if len(missing) > 0 {
		w.judge(critRoutes, false, "missing: "+strings.Join(missing, "; "))
		return
	}
	routes := len(nodes) * (len(nodes) - 1)
	w.judge(critRoutes, len(nodes) == w.nodes, fmt.Sprintf("%d routes, every node to every other", routes))
}

// missingRoutes names the nodes that "ip route" on self has no way to.
func missingRoutes(out, self string, nodes []node) []string {
	var missing []string
	for _, n := range nodes {
		if n.name != self && !hasRoute(out, n) {
			missing = append(missing, self+" to "+n.name)
		}
	}
	return missing
}

func hasRoute(out string, n node) bool {
	for _, line := range lines(out) {
		if strings.HasPrefix(line, n.podCIDR+" via "+n.ip+" ") {
			return true
		}
	}
	return false
}

// judgeVirtualServer wants the web pods behind the Service, no more, no less.
func (w *walk) judgeVirtualServer() {
	vip := w.clusterIP()
	pods := strings.Fields(w.must(`kubectl -n test get pod -l app=web -o jsonpath='{.items[*].status.podIP}'`))
	out := w.until(func(out string) bool { return sameServers(realServers(out, vip+":80"), pods, ":80") },
		"kubectl -n kube-system exec "+w.firstAgent()+" -- ipvsadm -Ln")
	found := realServers(out, vip+":80")
	w.judge(critIPVS, len(pods) == 3 && sameServers(found, pods, ":80"),
		fmt.Sprintf("TCP %s:80 -> %s", vip, strings.Join(found, ", ")))
}

// realServers reads the real servers of a TCP virtual server from "ipvsadm -Ln".
func realServers(out, server string) []string {
	var found []string
	inside := false
	for _, line := range lines(out) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 2 && fields[0] == "TCP":
			inside = fields[1] == server
		case len(fields) >= 2 && fields[0] == "->" && inside:
			found = append(found, fields[1])
		case len(fields) > 0 && fields[0] != "->":
			inside = false
		}
	}
	return found
}

func sameServers(found, pods []string, port string) bool {
	if len(found) != len(pods) {
		return false
	}
	for _, pod := range pods {
		if !strings.Contains(" "+strings.Join(found, " ")+" ", " "+pod+port+" ") {
			return false
		}
	}
	return true
}

const welcome = "Welcome to nginx"

// judgeReachable wants the web page by address and by name.
func (w *walk) judgeReachable() {
	byIP := w.show(fmt.Sprintf("kubectl -n test exec client -- wget -qO- --timeout=5 http://%s | grep title", w.clusterIP()))
	byName := w.show("kubectl -n test exec client -- wget -qO- --timeout=5 http://web | grep title")
	w.judge(critReach, strings.Contains(byIP, welcome) && strings.Contains(byName, welcome),
		fmt.Sprintf("by ClusterIP: %s; by name: %s", verdict(byIP), verdict(byName)))
}

func verdict(page string) string {
	if strings.Contains(page, welcome) {
		return "nginx answers"
	}
	return "no answer"
}

// judgeAllowed wants the client to get the page under the allow policy.
func (w *walk) judgeAllowed() {
	out := w.until(func(out string) bool { return strings.Contains(out, welcome) },
		"kubectl -n test exec client -- wget -qO- --timeout=5 http://web | grep title")
	w.judge(critAllow, strings.Contains(out, welcome), "client -> web: "+verdict(out))
}

// judgeBlocked wants a pod to get nothing from any of the web pods. The proxy
// takes turns, so as many tries as there are pods ask each of them once.
func (w *walk) judgeBlocked(criterion, pod, why string) {
	blocked := 0
	for range 3 {
		// Without -q, so that it says why.
		out := w.show("kubectl -n test exec " + pod + " -- wget -O- --timeout=5 http://web 2>&1 || echo BLOCKED")
		if strings.Contains(out, "BLOCKED") && !strings.Contains(out, welcome) && wgetRan(out) {
			blocked++
		}
	}
	w.judge(criterion, blocked == 3, fmt.Sprintf("%s -> web: %d of 3 tries blocked (%s)", pod, blocked, why))
}

// wgetRan tells a refused or timed out connection from a wget that could not
// even try: only the former is evidence that a policy blocks.
func wgetRan(out string) bool {
	for _, sign := range []string{"timed out", "refused", "unreachable", "No route", "Permission denied"} {
		if strings.Contains(out, sign) {
			return true
		}
	}
	return false
}

var rss = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// judgeMemory wants every agent within agentMemoryLimit.
func (w *walk) judgeMemory() {
	ok := true
	var evidence []string
	for _, agent := range w.agents() {
		out := w.show("kubectl -n kube-system exec " + agent.pod + " -- grep -E 'Name|VmRSS' /proc/1/status")
		kib := residentKiB(out)
		ok = ok && strings.Contains(out, "kube-router") && kib > 0 && kib <= agentMemoryLimit
		evidence = append(evidence, fmt.Sprintf("%s %.1f MB", agent.node, float64(kib)/1024))
	}
	w.judge(critMemory, ok && len(evidence) == w.nodes, strings.Join(evidence, ", "))
}

func residentKiB(status string) int {
	m := rss.FindStringSubmatch(status)
	if m == nil {
		return 0
	}
	kib, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return kib
}

// exitStatus begins the line that a command's exit status is told in.
const exitStatus = "exit status "

// judgeStatus wants a node's status command to succeed, soon.
func (w *walk) judgeStatus(command string) {
	if w.err != nil {
		return
	}
	w.judgeExit(command, w.poll(exited0, command+`; echo "`+exitStatus+`$?"`))
}

// judgeExit keeps what the command printed for the very end, where it is the
// last word on the cluster.
func (w *walk) judgeExit(command, out string) {
	w.last = fmt.Sprintf("\n$ %s\n%s", command, indent(out))
	all := lines(out)
	w.judge(critStatus, exited0(out), all[len(all)-1])
}

func exited0(out string) bool { return strings.HasSuffix(out, exitStatus+"0\n") }

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }
