//go:build kernel

package link

import "testing"

func TestKernel(t *testing.T) { suite(t, freshKernel) }
