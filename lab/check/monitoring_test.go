package check

import (
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
)

func TestRules(t *testing.T) {
	_ = rulefmt.RuleGroups{}
}
