//go:build kernel

package ipset

import "testing"

func TestKernel(t *testing.T) { runOnKernel(t) }
