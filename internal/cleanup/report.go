package cleanup

import (
	"fmt"
	"io"
	"strings"
)

// report writes what becomes of each thing, a line each.
type report struct {
	out                      io.Writer
	dry                      bool // nothing is done, only told of
	changed, stays, unsolved int
}

// removed tells of things that are gone.
func (r *report) removed(kind string, things ...string) {
	if r.dry {
		r.tell("would remove "+kind, things)
		return
	}
	r.tell("removed "+kind, things)
}

// restored tells of things that are as they were before.
func (r *report) restored(kind string, things ...string) { r.tell("restored "+kind, things) }

func (r *report) tell(done string, things []string) {
	for _, thing := range things {
		r.changed++
		fmt.Fprintf(r.out, "%s %s\n", done, thing)
	}
}

// kept tells of something that stays on purpose, and why.
func (r *report) kept(what, why string) {
	r.stays++
	fmt.Fprintf(r.out, "kept %s: %s\n", what, why)
}

// note tells of what is neither changed nor anything of ours that stays.
func (r *report) note(line string) { fmt.Fprintln(r.out, line) }

// failed tells of what could not be removed. Joined errors are a line each.
func (r *report) failed(what string, err error) {
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		r.unsolved++
		fmt.Fprintf(r.out, "not removed: %s: %s\n", what, line)
	}
}

// result ends the report.
func (r *report) result() error {
	switch {
	case r.unsolved > 0:
		return fmt.Errorf("not everything could be removed (%d, see the lines above); do what they say and run it again", r.unsolved)
	case r.changed+r.stays == 0:
		fmt.Fprintln(r.out, "nothing to remove")
	}
	return nil
}
