package iptables

import "fmt"

// mostCompared bounds the work of finding what two chains have in common. What
// lies between their common head and tail is rewritten where it is more.
const mostCompared = 1 << 16

// change replaces the rules of a chain that exists, one by one: a rule that
// stays keeps its counters. It goes from the end to the head, so that the
// numbers of the rules before stay true.
func (p *plan) change(name string, old, want []string) {
	p.chains[name] = want
	p.changes++
	head := 0
	for head < min(len(old), len(want)) && same(old[head], want[head]) {
		head++
	}
	oldEnd, wantEnd := len(old), len(want)
	for oldEnd > head && wantEnd > head && same(old[oldEnd-1], want[wantEnd-1]) {
		oldEnd, wantEnd = oldEnd-1, wantEnd-1
	}
	for _, e := range script(old[head:oldEnd], want[head:wantEnd]) {
		number := head + e.at + 1
		switch {
		case !e.insert:
			p.edits = append(p.edits, fmt.Sprintf("-D %s %d", name, number))
		case e.replace:
			p.edits = append(p.edits, fmt.Sprintf("-R %s %d %s", name, number, e.rule))
		default:
			p.edits = append(p.edits, fmt.Sprintf("-I %s %d %s", name, number, e.rule))
		}
	}
}

// step is one edit of a chain: the rule at a place goes, or a rule is inserted
// there, or both.
type step struct {
	at              int
	insert, replace bool
	rule            string
}

// script is the fewest edits that turn old into want, from the end to the head.
func script(old, want []string) []step {
	if len(old)*len(want) > mostCompared {
		return replaceAll(old, want)
	}
	common := longestCommon(old, want)
	var steps []step
	i, j := len(old), len(want)
	for i > 0 || j > 0 {
		switch {
		case i > 0 && j > 0 && same(old[i-1], want[j-1]):
			i, j = i-1, j-1
		case i > 0 && j > 0 && common[i-1][j-1] == common[i][j]:
			steps = append(steps, step{at: i - 1, insert: true, replace: true, rule: want[j-1]})
			i, j = i-1, j-1
		case j > 0 && common[i][j-1] == common[i][j]:
			steps = append(steps, step{at: i, insert: true, rule: want[j-1]})
			j--
		default:
			steps = append(steps, step{at: i - 1})
			i--
		}
	}
	return steps
}

// longestCommon has at [i][j] how many rules the first i of old and the first j
// of want have in common, in order.
func longestCommon(old, want []string) [][]int {
	common := make([][]int, len(old)+1)
	common[0] = make([]int, len(want)+1)
	for i := range old {
		common[i+1] = make([]int, len(want)+1)
		for j := range want {
			if same(old[i], want[j]) {
				common[i+1][j+1] = common[i][j] + 1
			} else {
				common[i+1][j+1] = max(common[i][j+1], common[i+1][j])
			}
		}
	}
	return common
}

func replaceAll(old, want []string) []step {
	var steps []step
	for i := len(old) - 1; i >= len(want); i-- {
		steps = append(steps, step{at: i})
	}
	for j := len(want) - 1; j >= len(old); j-- {
		steps = append(steps, step{at: len(old), insert: true, rule: want[j]})
	}
	for i := min(len(old), len(want)) - 1; i >= 0; i-- {
		steps = append(steps, step{at: i, insert: true, replace: true, rule: want[i]})
	}
	return steps
}
