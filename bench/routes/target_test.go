package main

import (
	"testing"
	"time"
)

func rowsThatHold() []Row {
	return []Row{
		{By: ours, What: learnName(1000), Time: spreadOf(900 * time.Millisecond), Operations: figure(1000)},
		{By: ours, What: learnName(5000), Time: spreadOf(4 * time.Second), Operations: figure(5000)},
		{By: ours, What: changeName, Time: spreadOf(time.Millisecond, 50*time.Millisecond)},
		{By: ours, What: flapName, Repeated: figure(0)},
		{By: ours, What: reflectorName(1000), Time: spreadOf(30 * time.Second)},
		{By: ours, What: memoryName, Memory: figure(45)},
	}
}

func TestTargets(t *testing.T) {
	if targets := judge(rowsThatHold()); !held(targets) {
		t.Errorf("the limits themselves do not hold: %+v", targets)
	}
	worse := map[int]func(*Row){
		0: func(r *Row) { r.Operations = figure(1001) },
		1: func(r *Row) { r.Time = spreadOf(4*time.Second + time.Millisecond) },
		2: func(r *Row) { r.Time = spreadOf(time.Millisecond, 51*time.Millisecond) },
		3: func(r *Row) { r.Repeated = figure(1) },
		4: func(r *Row) { r.Time = nil },
		5: func(r *Row) { r.Memory = figure(46) },
	}
	for i, change := range worse {
		rows := rowsThatHold()
		change(&rows[i])
		missed := 0
		for _, target := range judge(rows) {
			if !target.OK {
				missed++
			}
		}
		if missed != 1 {
			t.Errorf("a worse %q misses %d targets, not 1", rows[i].What, missed)
		}
	}
	if held(judge(nil)) {
		t.Error("nothing measured holds")
	}
}
