package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// spec is one of Kubernetes' tests, and how it ended.
type spec struct {
	name    string
	state   string // Ginkgo's word: passed, failed, panicked, timedout, skipped ...
	took    time.Duration
	problem string
}

const statePassed = "passed"

// suiteReport is the part of Ginkgo's JSON report that a verdict needs
// (types.Report in github.com/onsi/ginkgo/v2/types).
type suiteReport struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		RunTime                 time.Duration
		Failure                 struct{ Message string }
	}
}

// readReport returns the specs that a run selected; a report has all others,
// too, as skipped without a reason.
func readReport(path string) ([]spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("e2e.test left no report: %w", err)
	}
	var suites []suiteReport
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("e2e.test's report %s: %w", path, err)
	}
	var specs []spec
	for _, suite := range suites {
		for _, r := range suite.SpecReports {
			if r.LeafNodeType != "It" || (r.State == "skipped" && r.Failure.Message == "") {
				continue
			}
			specs = append(specs, spec{
				name:  strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " "),
				state: r.State, took: r.RunTime, problem: firstLine(r.Failure.Message),
			})
		}
	}
	return specs, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// ended is how a process that was to run one spec left it. What has no proof
// of success is a failure: a report that is missing, a spec that was left out,
// a check after the spec that made the process fail.
func ended(name, report string, exit error) spec {
	failed := spec{name: name, state: "failed"}
	specs, err := readReport(report)
	switch {
	case err != nil:
		failed.problem = err.Error()
	case len(specs) != 1:
		failed.problem = fmt.Sprintf("%d specs ran instead of this one", len(specs))
	case specs[0].state == statePassed && exit != nil:
		failed.problem = fmt.Sprintf("the spec passed, but e2e.test says %v", exit)
	default:
		return specs[0]
	}
	return failed
}
