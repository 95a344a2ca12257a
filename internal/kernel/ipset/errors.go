package ipset

import "errors"

// The refusals of the kernel that callers tell apart. The real driver and the
// Fake wrap them with the name of the set and the entry.
var (
	// ErrNotExist is returned for a set that is not there.
	ErrNotExist = errors.New("no such set")
	// ErrExist is returned by Create where a set of that name has another Spec.
	ErrExist = errors.New("a set of that name exists with another type, family or size")
	// ErrInUse is returned by Destroy while a rule or another set refers to
	// the set: remove that first.
	ErrInUse = errors.New("the set is in use by a rule")
	// ErrTypeMismatch is returned by Swap of sets of different type or family.
	ErrTypeMismatch = errors.New("the sets differ in type or family")
	// ErrFull is returned by Add where the set holds MaxElem entries.
	ErrFull = errors.New("the set is full: create it with a larger MaxElem")
	// ErrInvalid is returned for a set or entry that the kernel has no room
	// for by its nature: asking again does not help.
	ErrInvalid = errors.New("invalid")
)
