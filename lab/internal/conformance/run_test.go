package conformance

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/lab/internal/progress"
)

// e2eTest stands in for Kubernetes' test binary: four specs, of which two
// share the cluster and pass, one is serial and fails, and one is of another
// group. It notes which specs it runs.
const e2eTest = `#!/bin/sh
dry=no
for a in "$@"; do
	case $a in
	--ginkgo.dry-run) dry=yes ;;
	--ginkgo.focus=*) focus=${a#*=} ;;
	--ginkgo.json-report=*) report=${a#*=} ;;
	esac
done
spec() { # container, text, state, message
	printf '{"ContainerHierarchyTexts":["%s"],"LeafNodeType":"It","LeafNodeText":"%s","State":"%s","RunTime":2000000000,"Failure":{"Message":"%s"}}' "$@"
}
suite() {
	echo '[{"SpecReports":[{"LeafNodeType":"SynchronizedBeforeSuite","State":"passed"}'
	status=0
	while read -r name; do
		if ! echo "$name" | grep -Eq "$focus"; then
			echo ,; spec "${name%% *}" "${name#* }" skipped ""
		elif [ $dry = no ] && echo "$name" | grep -q 'BROKEN'; then
			echo ,; spec "${name%% *}" "${name#* }" failed 'timed out\nsecond line'; status=1
		else
			echo ,; spec "${name%% *}" "${name#* }" passed ""
		fi
	done < "$(dirname "$0")/specs"
	echo ']}]'
	return $status
}
[ $dry = yes ] || echo "$focus" >> "$(dirname "$0")/ran"
echo "output of $focus"
suite > "$report"
`

const specNames = `Services serve [Conformance]
Services BROKEN serially [Serial]
Services serve more [Conformance]
Pods run [Conformance]
`

// lab makes a directory of programs with the stand-in in it.
func lab(t *testing.T, script string) Options {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"e2e.test": script, "specs": specNames} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Focus: "Services", Parallel: 2, BinDir: dir, Kept: filepath.Join(dir, "failed")}
}

func run(t *testing.T, o Options) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := Run(t.Context(), progress.New(&out), o)
	return out.String(), err
}

func TestAllSpecsPass(t *testing.T) {
	o := lab(t, e2eTest)
	o.Focus, o.Expect = "serve", 2
	out, err := run(t, o)
	if err != nil || !strings.Contains(out, "2 of 2 specs pass") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestASpecThatFailsFailsTheRun(t *testing.T) {
	o := lab(t, e2eTest)
	out, err := run(t, o)
	if !errors.Is(err, ErrFailed) {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"2 of 3 specs pass", "failed: Services BROKEN serially [Serial] (timed out)"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	kept, err := filepath.Glob(filepath.Join(o.Kept, "*"))
	if err != nil || len(kept) != 1 || filepath.Base(kept[0]) != "services-broken-serially.log" {
		t.Fatalf("kept %q", kept)
	}
	if text, _ := os.ReadFile(kept[0]); !strings.HasPrefix(string(text), "output of Services BROKEN") {
		t.Errorf("kept %s", text)
	}
}

func TestSerialSpecsRunLast(t *testing.T) {
	o := lab(t, e2eTest)
	_, _ = run(t, o)
	data, err := os.ReadFile(filepath.Join(o.BinDir, "ran"))
	if err != nil {
		t.Fatal(err)
	}
	ran := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(ran) != 3 || ran[2] != `Services BROKEN serially \[Serial\]$` {
		t.Errorf("ran %q", ran)
	}
}

func TestANumberOfSpecsThatIsNotExpectedIsAFailure(t *testing.T) {
	for _, c := range []struct {
		focus  string
		expect int
		want   string
	}{
		{"nothing of this name", 0, "no spec matches the focus"},
		{"serve", 3, "2 specs match the focus, 3 are expected"},
		{"Services", 2, "3 specs match the focus, 2 are expected"},
	} {
		o := lab(t, e2eTest)
		o.Focus, o.Expect = c.focus, c.expect
		out, err := run(t, o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s\n%s", c.focus, err, c.want, out)
		}
		if _, err := os.Stat(filepath.Join(o.BinDir, "ran")); err == nil {
			t.Errorf("%s: specs ran", c.focus)
		}
	}
}

func TestWhatLeavesNoProofIsAFailure(t *testing.T) {
	for name, change := range map[string]struct{ old, new, want string }{
		"no report":                          {`suite > "$report"`, `[ $dry = no ] && exit 0; suite > "$report"`, "left no report"},
		"a report that is cut short":         {`suite > "$report"`, `suite > "$report"; [ $dry = yes ] || echo '[{' > "$report"`, "report"},
		"a spec that was left out":           {`suite > "$report"`, `[ $dry = yes ] || focus=nothing; suite > "$report"`, "0 specs ran"},
		"a spec that was skipped at runtime": {`passed ""`, `$([ $dry = yes ] && echo passed || echo skipped) "only on GCE"`, "only on GCE"},
		"a failure after the spec":           {`suite > "$report"`, `suite > "$report"; [ $dry = yes ]`, "the spec passed, but"},
	} {
		o := lab(t, strings.ReplaceAll(e2eTest, change.old, change.new))
		o.Focus = "serve"
		out, err := run(t, o)
		if !errors.Is(err, ErrFailed) || !strings.Contains(out, "0 of 2 specs pass") || !strings.Contains(out, change.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

func TestAnInterruptedRunIsNoSuccess(t *testing.T) {
	o := lab(t, strings.Replace(e2eTest, `suite > "$report"`, `suite > "$report"; [ $dry = yes ] || exec sleep 60`, 1))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for range time.Tick(5 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(o.BinDir, "ran")); err == nil || t.Context().Err() != nil {
				return
			}
		}
	}()
	err := Run(ctx, progress.New(&bytes.Buffer{}), o)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "stopped after 0 of 3 specs") {
		t.Errorf("%v", err)
	}
}

func TestSlugs(t *testing.T) {
	got := slug("[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: http [NodeConformance] [Conformance]")
	if got != "networking-granular-checks-pods-should-function-for-intra-pod-communication-http" {
		t.Error(got)
	}
}

func TestOnlyWhatWasSelectedCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	const report = `[{"SpecReports":[
	{"LeafNodeType":"SynchronizedBeforeSuite","State":"passed"},
	{"ContainerHierarchyTexts":["[sig-network] Services"],"LeafNodeType":"It","LeafNodeText":"serve","State":"timedout","RunTime":1000000000,"Failure":{"Message":"too\nslow"}},
	{"ContainerHierarchyTexts":["[sig-apps] Jobs"],"LeafNodeType":"It","LeafNodeText":"run","State":"skipped"}]}]`
	if err := os.WriteFile(path, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	specs, err := readReport(path)
	want := []spec{{name: "[sig-network] Services serve", state: "timedout", took: time.Second, problem: "too"}}
	if err != nil || !slices.Equal(specs, want) {
		t.Errorf("%+v, %v", specs, err)
	}
}
