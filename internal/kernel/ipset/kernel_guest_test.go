//go:build guest

package ipset

import "testing"

// TestGuestKernel runs the suite on the kernel that most hosts have: Linux 6.1.
func TestGuestKernel(t *testing.T) { runOnKernel(t) }
