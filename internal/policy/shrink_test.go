package policy

import (
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// smallerPolicies are a policy without one of its rules, of their peers or of
// their ports. A list does not become empty by that: it would mean the
// opposite.
func smallerPolicies(np *networkingv1.NetworkPolicy) (all []*networkingv1.NetworkPolicy) {
	with := func(change func(spec *networkingv1.NetworkPolicySpec)) {
		c := np.DeepCopy()
		change(&c.Spec)
		all = append(all, c)
	}
	for i, r := range np.Spec.Ingress {
		with(func(s *networkingv1.NetworkPolicySpec) { s.Ingress = slices.Delete(s.Ingress, i, i+1) })
		for _, from := range fewer(r.From) {
			with(func(s *networkingv1.NetworkPolicySpec) { s.Ingress[i].From = from })
		}
		for _, ports := range fewer(r.Ports) {
			with(func(s *networkingv1.NetworkPolicySpec) { s.Ingress[i].Ports = ports })
		}
	}
	for i, r := range np.Spec.Egress {
		with(func(s *networkingv1.NetworkPolicySpec) { s.Egress = slices.Delete(s.Egress, i, i+1) })
		for _, to := range fewer(r.To) {
			with(func(s *networkingv1.NetworkPolicySpec) { s.Egress[i].To = to })
		}
		for _, ports := range fewer(r.Ports) {
			with(func(s *networkingv1.NetworkPolicySpec) { s.Egress[i].Ports = ports })
		}
	}
	return all
}

// fewer are a list without one of its several elements.
func fewer[T any](list []T) (all [][]T) {
	if len(list) < 2 {
		return nil
	}
	for i := range list {
		all = append(all, slices.Delete(slices.Clone(list), i, i+1))
	}
	return all
}
