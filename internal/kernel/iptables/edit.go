package iptables

import (
	"fmt"
	"slices"
)

// mostCompared bounds the work of finding what two chains have in common. What
// lies between their common head and tail is rewritten where it is more.
const mostCompared = 1 << 16

// change replaces the rules of a chain that exists, one by one: a rule that
// stays keeps its counters. It goes from the end to the head, so that the
// numbers of the rules before stay true.
//
// A rule goes by its text and not by its number: where somebody else changed
// the chain, the kernel refuses the transaction, the table is read again, and
// no other rule has gone in its place. So a chain in which the text does not
// tell is rewritten.
func (p *plan) change(name string, old, want []string) {
	steps := script(old, want)
	if !telling(steps, old, want) {
		p.rewrite(name, want)
		return
	}
	p.chains[name] = want
	p.changes++
	for _, e := range steps {
		if e.insert {
			p.edits = append(p.edits, fmt.Sprintf("-I %s %d %s", name, e.at+1, e.rule))
		}
		if e.remove {
			p.edits = append(p.edits, fmt.Sprintf("-D %s %s", name, old[e.at]))
		}
	}
}

// telling says that the text of each rule that is removed is that of no other.
func telling(steps []step, old, want []string) bool {
	times := map[string]int{}
	for _, rule := range slices.Concat(old, want) {
		times[canonical(rule)]++
	}
	for _, e := range steps {
		if e.remove && times[canonical(old[e.at])] > 1 {
			return false
		}
	}
	return true
}

// step is one edit of a chain: a rule is inserted at a place, or the one that
// was there goes, or both.
type step struct {
	at             int
	insert, remove bool
	rule           string
}

// script is what turns old into want, from the end to the head.
func script(old, want []string) []step {
	head := 0
	for head < min(len(old), len(want)) && same(old[head], want[head]) {
		head++
	}
	oldEnd, wantEnd := len(old), len(want)
	for oldEnd > head && wantEnd > head && same(old[oldEnd-1], want[wantEnd-1]) {
		oldEnd, wantEnd = oldEnd-1, wantEnd-1
	}
	steps := fewest(old[head:oldEnd], want[head:wantEnd])
	for i := range steps {
		steps[i].at += head
	}
	return steps
}

// fewest are the fewest edits, or, where that is much to find out, all.
func fewest(old, want []string) []step {
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
			steps = append(steps, step{at: i - 1, insert: true, remove: true, rule: want[j-1]})
			i, j = i-1, j-1
		case j > 0 && common[i][j-1] == common[i][j]:
			steps = append(steps, step{at: i, insert: true, rule: want[j-1]})
			j--
		default:
			steps = append(steps, step{at: i - 1, remove: true})
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
		steps = append(steps, step{at: i, remove: true})
	}
	for j := len(want) - 1; j >= len(old); j-- {
		steps = append(steps, step{at: len(old), insert: true, rule: want[j]})
	}
	for i := min(len(old), len(want)) - 1; i >= 0; i-- {
		steps = append(steps, step{at: i, insert: true, remove: true, rule: want[i]})
	}
	return steps
}
