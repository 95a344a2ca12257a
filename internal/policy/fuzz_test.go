package policy

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// FuzzNetworkPolicy: whatever a policy says, the agent does not fail, and what
// passes is what the judge allows: a part that is not understood opens nothing.
func FuzzNetworkPolicy(f *testing.F) {
	for number := range uint64(40) {
		text, err := yaml.Marshal(newDice(2, number).drawPolicy("p"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, spec := range []string{
		`policyTypes: [Sideways], ingress: [{}]`,
		`policyTypes: [Egress, egress]`,
		`ingress: [{ports: [{protocol: "", port: 80}, {protocol: tcp}]}]`,
		`ingress: [{ports: [{port: "80"}, {port: ""}, {port: 0}, {port: -1}, {port: 65536}, {port: 1, endPort: 0}]}]`,
		`ingress: [{from: [{ipBlock: {cidr: "::ffff:10.244.1.0/120"}}, {ipBlock: {cidr: "10.244.1.0/024"}}]}]`,
		`ingress: [{from: [{ipBlock: {}}, {}, {podSelector: {matchLabels: {"": ""}}}]}]`,
		`ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [""]}}]}], egress: [{to: [{ipBlock: {cidr: "fe80::%eth0/10"}}]}]`,
		`podSelector: {matchExpressions: [{key: app, operator: in, values: [web]}, {key: app, operator: Exists, values: [x]}]}, ingress: [{}]`,
	} {
		f.Add([]byte("spec: {" + spec + "}"))
	}
	base := newDice(3, 5).drawCluster()
	base.policies = nil
	f.Fuzz(func(t *testing.T, data []byte) {
		np := &networkingv1.NetworkPolicy{}
		if yaml.Unmarshal(data, np) != nil {
			return
		}
		np.ObjectMeta = metav1.ObjectMeta{Namespace: base.pods[0].Namespace, Name: "p"}
		o := base.clone()
		o.policies = []*networkingv1.NetworkPolicy{np}
		w := newDualWorldWith(besideOurProxy)
		w.publish(o)
		w.settle(t)
		closed(t, w.tracer(), &judge{o, testConfig.NodeName})
	})
}

// closed holds the rules to letting pass nothing that the judge does not allow.
func closed(t *testing.T, tr *tracer, j *judge) {
	t.Helper()
	d := newDice(4, 0)
	for _, addrs := range j.addrs() {
		for _, src := range addrs {
			for _, dst := range addrs {
				for _, to := range d.someTargets() {
					f := flow{src, dst, to.protocol, to.port}
					if j.allows(f) {
						continue
					}
					for chain, packets := range meets(f) {
						if tr.passes(chain, packets[0]) {
							t.Fatalf("%s: %s passes\n%s", chain, f, j.yaml())
						}
					}
				}
			}
		}
	}
}
