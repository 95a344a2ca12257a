//go:build e2e || dual

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// startRequests fetches a page from a Pod on a node, one request after the
// other, each over a connection of its own. It prints "yes" or "no" for each.
func startRequests(t *testing.T, name string, node int, from, address string, pause string) flow {
	request := fmt.Sprintf(`if timeout 5 bash -c "exec 3<>/dev/tcp/%s/%s && printf \"GET /hostname HTTP/1.0\r\n\r\n\" >&3 && grep -q \"200 OK\" <&3" 2>/dev/null
		then echo yes; else echo no; fi; sleep %s`, address[:strings.LastIndex(address, ":")], address[strings.LastIndex(address, ":")+1:], pause)
	return start(t, name, node, from, request)
}

// all ends a flow of requests: every one must have succeeded, or none.
func (f flow) all(t *testing.T, want bool) {
	t.Helper()
	out := f.stop()
	yes, no := strings.Count(out, "yes"), strings.Count(out, "no")
	t.Logf("%s: %d succeeded, %d failed", f.name, yes, no)
	if want && (yes == 0 || no > 0) || !want && (no == 0 || yes > 0) {
		t.Errorf("%s: %d succeeded, %d failed", f.name, yes, no)
	}
}
