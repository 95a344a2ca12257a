package iptables

import (
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

func TestFake(t *testing.T) {
	runSuite(t, inet.IPv4, func(*testing.T) Interface {
		f := NewFake()
		f.SetExists = func(string) bool { return false }
		return f
	})
}
