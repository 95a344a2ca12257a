package config

import "testing"

func TestPorts(t *testing.T) {
	for _, tc := range []struct {
		args string
		want func(c *Config)
	}{
		{"--metrics-port=50051 --run-router=false", func(c *Config) { c.MetricsAddress, c.RunRouter = "127.0.0.1:50051", false }},
		{"--metrics-port=179", func(c *Config) { c.MetricsAddress = "127.0.0.1:179" }}, // BGP is not on the loopback
	} {
		parses(t, tc.args, tc.want)
	}
	for args, want := range map[string]string{
		"--metrics-port=20244":                             "--health-port=20244 --metrics-port=20244: two servers cannot share port 20244; set another for one of them, or turn one off",
		"--health-addr= --health-port=6060 --enable-pprof": "--health-port=6060 --enable-pprof=true: two servers cannot share port 6060; set another for one of them, or turn one off",
		"--metrics-port=50051":                             "--metrics-port=50051 --gobgp-admin-port=50051: two servers cannot share port 50051; set another for one of them, or turn one off",
		"--metrics-port=179 --metrics-addr=192.0.2.9":      "--metrics-port=179 --bgp-port=179: two servers cannot share port 179; set another for one of them, or turn one off",
	} {
		refuses(t, args, want)
	}
}
