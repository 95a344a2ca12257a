package cni

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func network(cidrs ...string) Network {
	n := Network{Bridge: "kube-bridge", MTU: 1500}
	for _, c := range cidrs {
		n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(c))
	}
	return n
}

const freshFile = `{
  "cniVersion": "0.3.1",
  "name": "kube-router",
  "plugins": [
    {
      "bridge": "kube-bridge",
      "hairpinMode": false,
      "ipMasq": false,
      "ipam": {
        "ranges": [
          [
            {
              "subnet": "10.244.1.0/24"
            }
          ]
        ],
        "type": "host-local"
      },
      "isDefaultGateway": true,
      "mtu": 1500,
      "type": "bridge"
    },
    {
      "capabilities": {
        "portMappings": true
      },
      "snat": true,
      "type": "portmap"
    }
  ]
}
`

func TestMerge(t *testing.T) {
	hairpin := network("10.244.1.0/24")
	hairpin.Hairpin = true
	noMTU := network("10.244.1.0/24")
	noMTU.MTU = 0
	for _, c := range []struct {
		name, existing string
		want           Network
		merged         string
	}{
		{"no file", "", network("10.244.1.0/24"), freshFile},
		{"an empty file, as a crash leaves it", " \n", network("10.244.1.0/24"), freshFile},
		{"nothing to change: byte for byte", strings.ReplaceAll(freshFile, "  ", "\t"), network("10.244.1.0/24"), strings.ReplaceAll(freshFile, "  ", "\t")},
		{
			"the older form of a range, in a list of the existing release",
			`{"cniVersion":"0.3.1","name":"mynet","plugins":[{"name":"kubernetes","type":"bridge","bridge":"kube-bridge","isDefaultGateway":true,"hairpinMode":true,"ipam":{"type":"host-local","subnet":"10.244.1.0/24","routes":[{"dst":"0.0.0.0/0"}]}}]}`,
			network("10.244.1.0/24", "fd00:1::/64"),
			`{"cniVersion":"0.3.1","name":"mynet","plugins":[{"name":"kubernetes","type":"bridge","bridge":"kube-bridge","isDefaultGateway":true,"hairpinMode":true,"mtu":1500,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:1::/64"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`,
		},
		{
			"a file for the single plugin",
			`{"type":"bridge","bridge":"cni0","x":12345678901234567890}`, noMTU,
			`{"type":"bridge","bridge":"kube-bridge","x":12345678901234567890,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}]]}}`,
		},
		{
			"the CIDR of a former node goes, a range inside the present one stays",
			`{"type":"bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/24"},{"subnet":"10.244.1.0/24","rangeStart":"10.244.1.64"}]]}}`, noMTU,
			`{"type":"bridge","bridge":"kube-bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24","rangeStart":"10.244.1.64"}]]}}`,
		},
		{
			"another plugin hands out the addresses",
			`{"type":"bridge","ipam":{"type":"dhcp"}}`, noMTU,
			`{"type":"bridge","bridge":"kube-bridge","ipam":{"type":"dhcp"}}`,
		},
		{
			"hairpin is turned on",
			`{"type":"bridge","bridge":"kube-bridge","mtu":1500,"ipam":{"type":"dhcp"}}`, hairpin,
			`{"type":"bridge","bridge":"kube-bridge","mtu":1500,"hairpinMode":true,"ipam":{"type":"dhcp"}}`,
		},
		{
			"hairpin is never turned off: that is the owner's choice",
			`{"type":"bridge","hairpinMode":true,"ipam":{"type":"dhcp"}}`, noMTU,
			`{"type":"bridge","bridge":"kube-bridge","hairpinMode":true,"ipam":{"type":"dhcp"}}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			merged, err := Merge([]byte(c.existing), c.want)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(decode(t, c.merged), decode(t, string(merged))); d != "" {
				t.Errorf("(-want +got):\n%s\n%s", d, merged)
			}
			if strings.TrimSpace(c.existing) == "" || c.existing == c.merged {
				if d := cmp.Diff(c.merged, string(merged)); d != "" {
					t.Errorf("text (-want +got):\n%s", d)
				}
			}
			again, err := Merge(merged, c.want)
			if err != nil || string(again) != string(merged) {
				t.Errorf("merging twice changes the file: %v\n%s", err, again)
			}
		})
	}
}

func decode(t *testing.T, text string) any {
	t.Helper()
	var v any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestMergeRefuses(t *testing.T) {
	for existing, reason := range map[string]string{
		`{"type":"bridge"`:                       "no JSON object",
		`null`:                                   "null",
		`[]`:                                     "no JSON object",
		`{"type":"bridge"} {}`:                   "more behind its JSON object",
		`{"type":"flannel"}`:                     `no plugin of type "bridge"`,
		`{"plugins":[{"type":"calico"},3,null]}`: `no plugin of type "bridge"`,
		`{"type":"bridge","ipam":[]}`:            `its "ipam" is no object`,
	} {
		merged, err := Merge([]byte(existing), network("10.244.1.0/24"))
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: got %s, %v; want error %q", existing, merged, err, reason)
		}
	}
}

func TestPodCIDRs(t *testing.T) {
	for existing, want := range map[string]string{
		"":        "",
		freshFile: "10.244.1.0/24",
		`{"type":"bridge","ipam":{"subnet":"10.1.2.3/24"}}`:                                                                     "10.1.2.0/24",
		`{"type":"bridge","ipam":{"ranges":[[{"subnet":"10.1.2.0/24"},{"subnet":"nonsense"},7],[{"subnet":"fd00::/64"}],"x"]}}`: "10.1.2.0/24 fd00::/64",
		`{"type":"bridge","ipam":"x"}`: "",
	} {
		cidrs, err := PodCIDRs([]byte(existing))
		var got []string
		for _, c := range cidrs {
			got = append(got, c.String())
		}
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%s: %v, %v; want %s", existing, got, err, want)
		}
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte(freshFile))
	f.Add([]byte(`{"type":"bridge","ipam":{"subnet":"10.1.2.3/24","ranges":[[{"subnet":"::/0"}],[[]],null]}}`))
	f.Add([]byte(`{"plugins":[{"type":"bridge","ipam":null}]}`))
	f.Fuzz(func(t *testing.T, existing []byte) {
		want := network("10.244.1.0/24", "fd00:1::/64")
		merged, err := Merge(existing, want)
		if err != nil {
			return
		}
		again, err := Merge(merged, want)
		if err != nil || string(again) != string(merged) {
			t.Fatalf("merging twice: %v\n%s\n%s", err, merged, again)
		}
		cidrs, err := PodCIDRs(merged)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cidrs {
			inside := func(p netip.Prefix) bool { return p.Overlaps(c) && p.Bits() <= c.Bits() }
			if strings.Contains(string(merged), "host-local") && !slices.ContainsFunc(want.PodCIDRs, inside) && usesHostLocal(merged) {
				t.Fatalf("hands out %s:\n%s", c, merged)
			}
		}
	})
}

func usesHostLocal(text []byte) bool {
	config, err := parse(text)
	if err != nil {
		return false
	}
	plugin, err := bridgePlugin(config)
	if err != nil {
		return false
	}
	ipam, _ := plugin["ipam"].(object)
	return ipam["type"] == "host-local"
}
