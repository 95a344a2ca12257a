package cleanup

import "slices"

// What earlier releases have that the agent does not make any more, under names
// that nobody else uses.

// formerLink had the addresses of Services.
const formerLink = "kube-dummy-if"

// formerSets are what the names of sets begin with.
func formerSets() []string {
	names := []string{"kube-router-local-ips", "KUBE-SRC-", "KUBE-DST-"}
	all := slices.Clone(names)
	for _, name := range names {
		all = append(all, "inet6:"+name)
	}
	return all
}
