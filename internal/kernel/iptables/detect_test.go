package iptables

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
)

// program is a shell script in place of one of iptables' programs, which
// prints text, or its version.
func program(t *testing.T, dir, name, version, text string) {
	t.Helper()
	script := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '" + name + " v1.8.9 " + version + "'; exit; fi\n" + text + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func prints(table string, lines ...string) string {
	return "printf '*" + table + "\\n" + strings.Join(lines, "\\n") + "\\nCOMMIT\\n'"
}

const fails = "echo 'Failed to initialize nft: Protocol not supported' >&2; exit 1"

// A program that hangs is ended, and says nothing of what the host uses: what
// there is besides is not taken for it.
func TestDetectEndsWhatHangs(t *testing.T) {
	const hangs = "exec /bin/sleep 600"
	for _, c := range []struct{ name, hanging, want string }{
		{"nf_tables", "iptables-nft-save", "iptables-nft-save: it did not end within 1s"},
		{"the probe", "iptables-nft-restore", "iptables-nft-restore: it did not end within 1s"},
		{"legacy", "iptables-legacy-save", "iptables-legacy-save: it did not end within 1s"},
		{"IPv6", "ip6tables-legacy-save", "ip6tables-legacy-save: it did not end within 1s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{"iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save", "iptables-nft-restore"} {
				text := "true"
				if name == c.hanging {
					text = hangs
				}
				program(t, dir, name, "", text)
			}
			t.Setenv("PATH", "/nowhere")
			got, err := host{dirs: []string{dir}, askTime: time.Second}.detect(t.Context())
			if !errors.Is(err, ErrHangs) || err.Error() != c.want {
				t.Errorf("%q, %v; want %s", got, err, c.want)
			}
		})
	}
	t.Run("the version", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "iptables-save"), []byte("#!/bin/sh\n"+hangs+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", "/nowhere")
		if got, err := (host{dirs: []string{dir}, askTime: time.Second}).detect(t.Context()); !errors.Is(err, ErrHangs) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestDetect(t *testing.T) {
	rules := func(n int) string {
		return prints("filter", append([]string{":INPUT ACCEPT [0:0]"}, strings.Split(strings.Repeat("-A INPUT -j ACCEPT,", n), ",")[:n]...)...)
	}
	hint := prints("mangle", ":KUBE-IPTABLES-HINT - [0:0]")
	canary := prints("mangle", ":KUBE-KUBELET-CANARY - [0:0]", ":OTHER - [0:0]")
	for _, c := range []struct {
		name             string
		legacy4, legacy6 string
		nft4, nft6       string
		plain            string // the version of iptables-save, where there is no other
		noFamily         bool   // nf_tables can be read but takes no rule
		want             Variant
		wantErr          string
		noPrograms       bool
	}{
		{name: "hint in nf_tables, more rules in legacy", legacy4: rules(9), legacy6: "true", nft4: hint, nft6: "true", want: NFT},
		{name: "hint in legacy, more rules in nf_tables", legacy4: canary, legacy6: "true", nft4: rules(9), nft6: "true", want: Legacy},
		{name: "hint in IPv6 only", legacy4: "true", legacy6: hint, nft4: rules(9), nft6: "true", want: Legacy},
		{name: "a hint in another table is none", legacy4: prints("filter", ":KUBE-IPTABLES-HINT - [0:0]"), legacy6: "true", nft4: "true", nft6: "true", want: NFT},
		{name: "more rules in legacy", legacy4: rules(2), legacy6: rules(1), nft4: rules(2), nft6: "true", want: Legacy},
		{name: "more rules in nf_tables", legacy4: rules(2), legacy6: "true", nft4: rules(2), nft6: rules(1), want: NFT},
		{name: "a fresh host", legacy4: "true", legacy6: "true", nft4: "true", nft6: "true", want: NFT},
		{name: "a kernel without nf_tables", legacy4: "true", legacy6: "true", nft4: fails, nft6: fails, want: Legacy},
		{name: "a kernel with nf_tables but without its families", legacy4: "true", legacy6: "true", nft4: "true", nft6: "true", noFamily: true, want: Legacy},
		{name: "a table of nf_tables that iptables cannot read", legacy4: "true", legacy6: "true", nft4: `[ "$1 $2" = "-t mangle" ] || exit 3; ` + hint, nft6: "true", want: NFT},
		{name: "no IPv6", legacy4: rules(1), legacy6: fails, nft4: "true", nft6: fails, want: Legacy},
		{name: "only plain names, of nf_tables", plain: "(nf_tables)", want: NFT},
		{name: "only plain names, of legacy", plain: "(legacy)", want: Legacy},
		{name: "neither works", legacy4: fails, legacy6: fails, nft4: fails, nft6: fails, wantErr: "Protocol not supported"},
		{name: "no programs", noPrograms: true, wantErr: "iptables-nft-save"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			switch {
			case c.noPrograms:
			case c.plain != "":
				program(t, dir, "iptables-save", c.plain, "true")
			default:
				program(t, dir, "iptables-legacy-save", "(legacy)", c.legacy4)
				program(t, dir, "ip6tables-legacy-save", "(legacy)", c.legacy6)
				program(t, dir, "iptables-nft-save", "(nf_tables)", c.nft4)
				program(t, dir, "ip6tables-nft-save", "(nf_tables)", c.nft6)
			}
			accepts := "true"
			if c.noFamily {
				accepts = fails
			}
			program(t, dir, "iptables-nft-restore", "(nf_tables)", accepts)
			t.Setenv("PATH", "/nowhere")
			got, err := host{dirs: []string{dir}}.detect(t.Context())
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Errorf("error %v, want one with %q", err, c.wantErr)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// Programs are not run to be told that there is nothing.
func TestDetectAsksTheKernelFirst(t *testing.T) {
	const never = "echo 'was run' >&2; exit 1"
	for _, c := range []struct {
		name   string
		tables map[Variant]bool
		nft    string
		probe  string
		want   Variant
	}{
		{name: "a fresh host", nft: never, probe: "true", want: NFT},
		{name: "a fresh host whose kernel takes no rules of nf_tables", nft: never, probe: fails, want: Legacy},
		{name: "rules of legacy alone", tables: map[Variant]bool{Legacy: true}, nft: never, probe: never, want: Legacy},
		{name: "rules of nf_tables alone", tables: map[Variant]bool{NFT: true}, nft: prints("filter", "-A INPUT -j ACCEPT"), probe: never, want: NFT},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			legacy := never
			if c.tables[Legacy] {
				legacy = prints("mangle", hints[0]+"- [0:0]")
			}
			program(t, dir, "iptables-legacy-save", "(legacy)", legacy)
			program(t, dir, "ip6tables-legacy-save", "(legacy)", never)
			program(t, dir, "iptables-nft-save", "(nf_tables)", c.nft)
			program(t, dir, "ip6tables-nft-save", "(nf_tables)", c.nft)
			program(t, dir, "iptables-nft-restore", "(nf_tables)", c.probe)
			t.Setenv("PATH", "/nowhere")
			empty := func(_ inet.Family, v Variant) bool { return !c.tables[v] }
			if got, err := (host{dirs: []string{dir}, empty: empty}).detect(t.Context()); err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestOpenNamesTheMissingProgramAndThePackage(t *testing.T) {
	dir := t.TempDir()
	program(t, dir, "ip6tables-nft-save", "(nf_tables)", "true")
	t.Setenv("PATH", "/nowhere")
	_, err := host{dirs: []string{dir}}.open(t.Context(), inet.IPv6, NFT)
	if !errors.Is(err, ErrTool) || !strings.Contains(err.Error(), "ip6tables-nft-restore") ||
		strings.Contains(err.Error(), "ip6tables-nft-save") || !strings.Contains(err.Error(), "package iptables") {
		t.Errorf("error %v", err)
	}
}

func TestErrorNamesTheLine(t *testing.T) {
	input := "*filter\n:A - [0:0]\n-A A -j B\nCOMMIT\n"
	for message, want := range map[string]string{
		"Couldn't load target `B'; Error occurred at line: 3": `line 3 is "-A A -j B"`,
		"iptables-restore: line 4 failed":                     `line 4 is "COMMIT"`,
		"line 2: CHAIN_DEL failed (busy)":                     `line 2 is ":A - [0:0]"`,
		"line 77 failed":                                      "line 77 failed",
		"no memory":                                           "no memory",
	} {
		err := withLine(&toolError{"iptables-restore", message, errors.New("exit status 1")}, input)
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), message) {
			t.Errorf("error %q, want one with %q", err, want)
		}
	}
}

// Where the kernel says that there is no table, no program is run to read all.
func TestNothingIsReadWithoutAProgram(t *testing.T) {
	k := &Kernel{save: "/no/such/program", empty: func() bool { return true }}
	if text, err := k.Save(t.Context(), AllTables); text != "" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	k.empty = func() bool { return false }
	if _, err := k.Save(t.Context(), AllTables); err == nil {
		t.Error("there are tables, and no program was run")
	}
}
