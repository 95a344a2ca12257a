package nft

import (
	"slices"
	"testing"
)

// suite holds fake and kernel to the same behaviour. There are the tables "ip
// kube-proxy" and "ip6 kube-proxy", and others.
func suite(t *testing.T, driver Interface) {
	t.Helper()
	ours := Table{"ip6", "kube-proxy"}
	before, err := driver.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Table{{"ip", "kube-proxy"}, ours, {"inet", "mine"}}
	if !slices.Equal(before, want) {
		t.Fatalf("there are %v, want %v", before, want)
	}
	if err := driver.Delete(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	left, err := driver.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := []Table{{"ip", "kube-proxy"}, {"inet", "mine"}}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	if err := driver.Delete(t.Context(), ours); err == nil {
		t.Error("a table that is not there was deleted")
	}
}

func TestFake(t *testing.T) {
	suite(t, &Fake{All: []Table{{"ip", "kube-proxy"}, {"ip6", "kube-proxy"}, {"inet", "mine"}}})
}
