package docs

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// othersMessages are those that other programs and the kernel say.
var othersMessages = []string{"connection refused", "no route to host", "address already in use", "operation not permitted", "read-only file system", "hold timer expired"}

// What troubleshooting.md has for words of the agent is what the agent says;
// … stands for what differs.
func TestMessagesAreReal(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir("../internal", func(dir string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			for _, name := range sources(t, dir) {
				source.WriteString(read(t, name))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	said := source.String() + strings.Join(othersMessages, "\n")
	checked := 0
	for _, table := range regexp.MustCompile(`(?m)^\| (?:words|last error|) \| do \|\n\|---\|---\|\n((?:\|.*\n)+)`).FindAllStringSubmatch(strings.ReplaceAll(read(t, "troubleshooting.md"), "\n   |", "\n|"), -1) {
		for row := range strings.Lines(table[1]) {
			first, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
			for _, message := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
				for part := range strings.SplitSeq(message[1], "…") {
					checked++
					if !strings.Contains(said, strings.TrimSpace(part)) {
						t.Errorf("nothing says %q, a part of %q", part, message[1])
					}
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d messages were found", checked)
	}
}
