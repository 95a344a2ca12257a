package peering

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkPeers is what a change of any Node costs an agent: once for each, or
// for many that come together.
func BenchmarkPeers(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		for _, mesh := range []bool{true, false} {
			b.Run(fmt.Sprintf("nodes=%d/mesh=%t", n, mesh), func(b *testing.B) {
				var text strings.Builder
				for i := range n {
					fmt.Fprintf(&text, "n%d ip=10.0.%d.%d", i, i/250, i%250+1)
					if i < 2 {
						text.WriteString(" reflector=1.0.0.1")
					}
					text.WriteString("\n")
				}
				nodes := nodesOf(b, text.String())
				c := config(func(c *Config) { c.FullMesh = mesh })
				own, _, err := ReadOwn(c, nodes["n9"], nil)
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					if peers, _ := Peers(c, own, "n9", nodes); mesh && len(peers) != n-1 || !mesh && len(peers) != 2 {
						b.Fatal(len(peers))
					}
				}
			})
		}
	}
}
