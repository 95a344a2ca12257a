package image

import (
	"slices"
	"testing"
)

func TestANameThatTheTestsDoNotUseIsTold(t *testing.T) {
	used := slices.Concat([]string{Pause}, agnhostNames, busyboxNames, nginxNames)
	if got := notListed(used); got != nil {
		t.Errorf("%q are said to be of no use", got)
	}
	used[1] = e2e + "agnhost:9.9.9"
	if got := notListed(used); !slices.Equal(got, agnhostNames[:1]) {
		t.Errorf("of no use: %q, want %q", got, agnhostNames[:1])
	}
}
