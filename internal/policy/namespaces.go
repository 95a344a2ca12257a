package policy

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/kube-router/kube-router/internal/cluster"
)

// namespaces are the cluster's, by name and by label.
type namespaces struct {
	all  map[string]*cluster.Namespace
	with map[label]map[string]struct{}
}

type label struct{ key, value string }

func newNamespaces() namespaces {
	return namespaces{all: map[string]*cluster.Namespace{}, with: map[label]map[string]struct{}{}}
}

func (n *namespaces) set(old, new *cluster.Namespace) {
	if old != nil {
		delete(n.all, old.Name)
		for key, value := range old.Labels {
			l := label{key, value}
			delete(n.with[l], old.Name)
			if len(n.with[l]) == 0 {
				delete(n.with, l)
			}
		}
	}
	if new != nil {
		n.all[new.Name] = new
		for key, value := range new.Labels {
			l := label{key, value}
			if n.with[l] == nil {
				n.with[l] = map[string]struct{}{}
			}
			n.with[l][new.Name] = struct{}{}
		}
	}
}

// matching calls fn for the name of each that a selector selects. One that
// asks for a label's value looks at those that have it only.
func (n *namespaces) matching(selector labels.Selector, fn func(name string)) {
	requirements, selectable := selector.Requirements()
	if !selectable {
		return
	}
	i := slices.IndexFunc(requirements, asksForOne)
	if i < 0 {
		for name, ns := range n.all {
			if selector.Matches(ns.Labels) {
				fn(name)
			}
		}
		return
	}
	value, _ := requirements[i].Values().PopAny()
	for name := range n.with[label{requirements[i].Key(), value}] {
		if selector.Matches(n.all[name].Labels) {
			fn(name)
		}
	}
}

// asksForOne says whether a requirement is that a label has one value.
func asksForOne(r labels.Requirement) bool {
	switch r.Operator() {
	case selection.In, selection.Equals, selection.DoubleEquals:
		return r.Values().Len() == 1
	}
	return false
}
