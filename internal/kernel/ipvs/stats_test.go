package ipvs

import (
	"strings"
	"testing"
)

func TestConnectionsAreTheFirstTotal(t *testing.T) {
	const stats = `   Total Incoming Outgoing         Incoming         Outgoing
   Conns  Packets  Packets            Bytes            Bytes
      1F       3C       2A             1622             3647

 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
       0        0        0                0                0
`
	if n, err := parseConnections(strings.NewReader(stats)); err != nil || n != 31 {
		t.Errorf("read %d, %v", n, err)
	}
	for _, broken := range []string{"", "one\ntwo\n", "one\ntwo\n\n", "one\ntwo\nzz\n"} {
		if n, err := parseConnections(strings.NewReader(broken)); err == nil {
			t.Errorf("read %d from %q", n, broken)
		}
	}
}
