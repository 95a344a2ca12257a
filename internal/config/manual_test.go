package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/flags.md instead of comparing it")

const manual = "../../docs/flags.md"

// docs/flags.md has every flag, and says of it what --help says.
func TestFlagsAreDocumented(t *testing.T) {
	want := flagsManual()
	if *update {
		if err := os.WriteFile(manual, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("docs/flags.md is not what the flags say: run make docs\n%s", firstDifference(string(have), want))
	}
	help := Usage("")
	for line := range strings.Lines(string(have)) {
		if name, ok := strings.CutPrefix(line, "| `--"); ok {
			name, _, _ = strings.Cut(name, "`")
			if !strings.Contains(help, "--"+name) {
				t.Errorf("--help does not know --%s", name)
			}
		}
	}
}

// flagsManual is docs/flags.md.
func flagsManual() string {
	var b strings.Builder
	b.WriteString("# Flags\n\nWritten by `make docs` from what `kube-router --help` prints: edit internal/config.\n" +
		"A flag that is on or off may stand without a value; to turn it off, write\n`--flag=false`. Given twice, the last one counts, but lists\nadd up. " +
		"[install.md](install.md) says where the manifests have them.\n")
	for _, s := range define(new(Config)).sections {
		fmt.Fprintf(&b, "\n## %s\n\n| flag | value | default | |\n|---|---|---|---|\n", s.title)
		for _, flag := range s.flags {
			name := "`--" + flag.Name + "`"
			if flag.Shorthand != "" {
				name += ", `-" + flag.Shorthand + "`"
			}
			initial := flag.DefValue
			if initial != "" {
				initial = "`" + initial + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, cell(flag.Value.Type()), initial, cell(flag.Usage))
		}
	}
	for _, s := range appendix() {
		fmt.Fprintf(&b, "\n## %s\n\n| | |\n|---|---|\n", s.title)
		for _, e := range s.items {
			fmt.Fprintf(&b, "| `%s` | %s |\n", cell(e.name), cell(e.text))
		}
	}
	return b.String()
}

// cell keeps a text in one cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func firstDifference(have, want string) string {
	h, w := strings.Split(have, "\n"), strings.Split(want, "\n")
	for i := range max(len(h), len(w)) {
		a, b := "", ""
		if i < len(h) {
			a = h[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			return fmt.Sprintf("line %d is\n%s\nand should be\n%s", i+1, a, b)
		}
	}
	return ""
}
