package ipvs

import "testing"

var _ Interface = (*Fake)(nil)

func TestFake(t *testing.T) {
	suite(t, func(t *testing.T) system {
		f := NewFake()
		return system{Interface: f, text: f.String}
	})
}
