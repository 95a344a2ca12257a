package ipvs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const table = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000A:0050 rr persistent 10800 FFFFFFFF
  -> 0AF40102:1F90      Masq    1      0          0         
  -> C0A8070C:0050      Tunnel  65535  12         345       
UDP  0A60000A:0035 wlc 
TCP  [fd00:0096:0000:0000:0000:0000:0000:000a]:0050 mh (mh-fallback) 
  -> [fd00:0244:0001:0000:0000:0000:0000:0002]:1F90      Masq    0      0          0         
AH   0A60000B:0000 rr 
  -> 0AF40102:0000      Route   1      0          0         
FWM  4D080000 sh 
  -> 0AF40102:1F90      Masq    1      0          0         
FWM  4D080000 sh 
  -> [fd00:0244:0001:0000:0000:0000:0000:0002]:1F90      Masq    7      0          0         
`

func TestParseReals(t *testing.T) {
	all, err := parseReals(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for id, reals := range all {
		for addr, real := range reals {
			if id != (ID{}) {
				lines = append(lines, fmt.Sprintf("-a %s -r %s %s", id, addr, real))
			}
		}
	}
	slices.Sort(lines)
	want := []string{
		"-a -f 1292369920 -6 -r [fd00:244:1::2]:8080 -m -w 7",
		"-a -f 1292369920 -r 10.244.1.2:8080 -m -w 1",
		"-a -t 10.96.0.10:80 -r 10.244.1.2:8080 -m -w 1",
		"-a -t 10.96.0.10:80 -r 192.168.7.12:80 -i -w 65535 --tun-type ipip",
		"-a -t [fd00:96::a]:80 -r [fd00:244:1::2]:8080 -m -w 0",
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
}

// FuzzTable: whatever the file holds, the answer is real servers or an error.
func FuzzTable(f *testing.F) {
	f.Add(table)
	f.Add("TCP  :0050 rr\n  -> 0:0 Masq -1")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := parseReals(strings.NewReader(s))
		for id := range maps.Keys(all) {
			if err == nil && id.Mark == 0 && id.Protocol != 0 && !id.Addr.IsValid() {
				t.Errorf("virtual server %s", id)
			}
		}
	})
}
