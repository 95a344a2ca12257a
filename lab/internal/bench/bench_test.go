package bench

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	samples := []float64{5, 1, 4, 2, 3, 10, 9, 8, 7, 6}
	for p, want := range map[float64]float64{0: 1, 10: 1, 50: 5, 51: 6, 90: 9, 91: 10, 100: 10} {
		if got := Percentile(samples, p); got != want {
			t.Errorf("p%.0f is %v, want %v", p, got, want)
		}
	}
	if got := Percentile(nil, 50); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	if samples[0] != 5 {
		t.Error("the samples are not left in their order")
	}
}

func TestPlanIsReadAndOrdered(t *testing.T) {
	p, err := NewPlan("1000, 600,600", "iptables,ours")
	if err != nil || !slices.Equal(p.Sizes, []int{600, 1000}) || !slices.Equal(p.Proxies, []string{IPTables, Ours}) || !p.needsKubeProxy() {
		t.Errorf("%+v, %v", p, err)
	}
	if p, _ := NewPlan("100", "ours"); p.needsKubeProxy() {
		t.Error("kube-proxy is built for nothing")
	}
	for _, bad := range [][2]string{{"", "ours"}, {"99", "ours"}, {"x", "ours"}, {"99999", "ours"}, {"100", "nftables"}, {"100", ""}} {
		if _, err := NewPlan(bad[0], bad[1]); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// good is a run that meets every target, closely.
func good() []Row {
	ours := func(services int) Row {
		return Row{
			Proxy: Ours, Services: services, ColdStart: exactly(1), Rules: Count(47),
			New: SpreadOf([]float64{20, 20, 150}), Memory: &Memory{Total: 35},
			Connect: &Connecting{Service: 220, Direct: 100}, ConnectFew: &Connecting{Service: 400, Direct: 200}, Sequence: &Sequence{Count: SequenceLength},
		}
	}
	few, many := ours(small), ours(large)
	many.Memory.Total = 60
	many.New = SpreadOf([]float64{30, 30, 150})
	return []Row{
		few, many,
		{Proxy: IPVS, Services: large, ColdStart: &Figure{Value: 600, Over: true}},
		{Proxy: IPTables, Services: large, ColdStart: exactly(10)},
	}
}

func TestTargets(t *testing.T) {
	if targets := Judge(good()); !Held(targets) {
		t.Fatalf("a good run is not: %+v", targets)
	}
	tests := map[string]struct {
		damage func([]Row)
		missed []string
	}{
		"slow median":         {func(r []Row) { r[1].New.P50 = 51 }, []string{"new Service works, p50 at 5,000 Services", "new Service works no later at 5,000 than at 600, p50"}},
		"slow once":           {func(r []Row) { r[1].New.Max = 151 }, []string{"new Service works, longest at 5,000"}},
		"given up":            {func(r []Row) { r[1].New.Over = true }, []string{"new Service works, longest at 5,000"}},
		"later at 5,000":      {func(r []Row) { r[0].New.P50 = 19 }, []string{"new Service works no later at 5,000 than at 600, p50"}},
		"later by little":     {func(r []Row) { r[0].New.P50, r[1].New.P50 = 1.71, 3.24 }, []string{"new Service works no later at 5,000 than at 600, p50"}},
		"cold start":          {func(r []Row) { r[1].ColdStart.Value = 1.01 }, []string{"cold start at 5,000 against kube-proxy's faster mode"}},
		"cold start given up": {func(r []Row) { r[1].ColdStart.Over = true }, []string{"cold start at 5,000 against kube-proxy's faster mode"}},
		"one mode only":       {func(r []Row) { r[2].ColdStart = nil }, []string{"cold start at 5,000 against kube-proxy's faster mode"}},
		"memory at 600":       {func(r []Row) { r[0].Memory.Total = 35.1 }, []string{"memory at 600"}},
		"memory at 5,000":     {func(r []Row) { r[1].Memory.Total = 60.1 }, []string{"memory at 5,000"}},
		"rules grow":          {func(r []Row) { r[1].Rules = Count(46) }, []string{"iptables rules are as many at every size"}},
		"too many rules":      {func(r []Row) { r[0].Rules = Count(48); r[1].Rules = Count(48) }, []string{"iptables rules at 600"}},
		"connecting":          {func(r []Row) { r[1].Connect.Service = 221 }, []string{"connecting at 5,000 against 100"}},
		"connecting fails":    {func(r []Row) { r[1].ConnectFew.Failed = 1 }, []string{"connecting at 5,000 against 100"}},
		"a second":            {func(r []Row) { r[1].Sequence.Slow = 1 }, []string{"10,000 connections from one client"}},
		"a failure":           {func(r []Row) { r[0].Sequence.Failed = 1 }, []string{"10,000 connections from one client"}},
		"too few connections": {func(r []Row) { r[0].Sequence.Count-- }, []string{"10,000 connections from one client"}},
		"nothing of the 5,000s": {func(r []Row) { r[1] = Row{Proxy: Ours, Services: large} }, []string{
			"new Service works, p50 at 5,000 Services", "new Service works, longest at 5,000",
			"new Service works no later at 5,000 than at 600, p50", "cold start at 5,000 against kube-proxy's faster mode",
			"memory at 5,000", "iptables rules are as many at every size", "connecting at 5,000 against 100",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			rows := good()
			test.damage(rows)
			var missed []string
			for _, target := range Judge(rows) {
				if !target.OK {
					missed = append(missed, target.Name)
				}
			}
			if !slices.Equal(missed, test.missed) {
				t.Errorf("missed\n%q, want\n%q", missed, test.missed)
			}
		})
	}
}

func TestWhatIsNotMeasuredIsMissed(t *testing.T) {
	for _, target := range Judge(nil) {
		if target.OK || target.Value != notMeasured {
			t.Errorf("%+v", target)
		}
	}
}

func TestTable(t *testing.T) {
	rows := []Row{
		{
			Proxy: Ours, Services: 600, ColdStart: exactly(0.4567), New: SpreadOf([]float64{4, 5, 30.25}),
			ChangeCPU: exactly(0.9), ChangeTime: exactly(3), Memory: &Memory{Total: 33.33, Peak: 41}, Rules: Count(47), Connect: &Connecting{212.7, 99.5, 2}, Load: 0.5,
			Sequence: &Sequence{Count: 10000, Max: 12},
		},
		{Proxy: IPVS, Services: 600, ColdStart: &Figure{600, true}, Error: "it was too slow"},
	}
	const want = `
     proxy  Services  cold start s  new p50 ms    p90    max  samples  CPU s/1000 changes  in s  memory MB peak  rules  connect us  direct  at 100  direct host load
      ours       600          0.46           5   30.2   30.2        3                0.90     3       33.3  41   47         213    99.5       -       - 0.50
      ipvs       600      over 600           -      -      -        -                   -     -      -    -      -           -       -       -       - 0
ours at 600, connections one after the other: 10000, 0 of them in 1 s or more, 0 failed, longest 12 ms
ours at 600, connecting: 2 failed
ipvs at 600: it was too slow
`
	var out bytes.Buffer
	if err := WriteTable(&out, rows); err != nil {
		t.Fatal(err)
	}
	if got := squeeze(out.String()); got != squeeze(want) {
		t.Errorf("got\n%swant%s", got, squeeze(want))
	}
}

// squeeze leaves the widths of columns out of the comparison.
func squeeze(s string) string {
	var lines []string
	for _, l := range strings.Split(strings.TrimSpace(s), "\n") {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, "\n")
}

func TestProgressIsHandedOnByLines(t *testing.T) {
	var got []string
	w := &lineWriter{line: func(l string) { got = append(got, l) }}
	for _, piece := range []string{"one\ntw", "o", "\n\nrest"} {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if want := []string{"one", "two", ""}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOnlyOursIsOurs(t *testing.T) {
	for proxy, want := range map[string]string{
		Ours:     "/bin/kube-router --kubeconfig=/k --hostname-override=node1 --run-router=false --run-firewall=false --run-service-proxy=true --metrics-port=20241",
		IPTables: "/bin/kube-proxy --kubeconfig=/k --hostname-override=node1 --proxy-mode=iptables --cluster-cidr=10.244.0.0/16",
		IPVS:     "/bin/kube-proxy --kubeconfig=/k --hostname-override=node1 --proxy-mode=ipvs --cluster-cidr=10.244.0.0/16",
	} {
		if got := strings.Join(Command(proxy, "/bin", "/k"), " "); got != want {
			t.Errorf("%s is started as\n%s, want\n%s", proxy, got, want)
		}
	}
}
