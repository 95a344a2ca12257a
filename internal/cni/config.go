// Package cni writes the network configuration of the Pods: the file from
// which the container runtime learns to call the plugins bridge, host-local
// and portmap (https://www.cni.dev/docs/spec/). The kubelet turns the node
// Ready when the file is there, so it is written last.
package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Network is what the agent decides about the Pods' network. All else in an
// existing file is its owner's.
type Network struct {
	// Bridge is the link that the Pods of this node share.
	Bridge string
	// PodCIDRs are the ranges that the Pods' addresses come from, at most one
	// a family.
	PodCIDRs []netip.Prefix
	// MTU of the Pods' links in bytes; 0 leaves it to the plugin.
	MTU int
	// Hairpin lets a Pod reach itself through a Service. Where it is not set,
	// what an existing file says stays.
	Hairpin bool
}

// version is the oldest version of the specification that has lists and
// several ranges; newer runtimes and plugins all take it.
const version = "0.3.1"

type object = map[string]any

// Merge returns the configuration file that has what the agent decides and
// everything else that existing has. It returns existing itself where that is
// right already, and a new file where existing is empty. Its error says why
// existing cannot be used: then it must not be overwritten.
func Merge(existing []byte, want Network) ([]byte, error) {
	if blank(existing) {
		return marshal(fresh(want))
	}
	config, err := parse(existing)
	if err != nil {
		return nil, err
	}
	plugin, err := bridgePlugin(config)
	if err != nil {
		return nil, err
	}
	before, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	if err := update(plugin, want); err != nil {
		return nil, err
	}
	after, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(before, after) {
		return existing, nil
	}
	return marshal(config)
}

// PodCIDRs returns the subnets that the file hands out addresses from, of an
// empty file none.
func PodCIDRs(existing []byte) ([]netip.Prefix, error) {
	if blank(existing) {
		return nil, nil
	}
	config, err := parse(existing)
	if err != nil {
		return nil, err
	}
	plugin, err := bridgePlugin(config)
	if err != nil {
		return nil, err
	}
	ipam, _ := plugin["ipam"].(object)
	var cidrs []netip.Prefix
	for _, set := range rangeSets(ipam) {
		for _, r := range set {
			if subnet, ok := subnetOf(r); ok && !slices.Contains(cidrs, subnet) {
				cidrs = append(cidrs, subnet)
			}
		}
	}
	return cidrs, nil
}

func blank(b []byte) bool { return len(bytes.TrimSpace(b)) == 0 }

func parse(text []byte) (object, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var config object
	if err := decoder.Decode(&config); err != nil {
		return nil, fmt.Errorf("it is no JSON object (%w): repair it, or remove it and it is written anew", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("there is more behind its JSON object: repair it, or remove it and it is written anew")
	}
	if config == nil {
		return nil, errors.New("it is no JSON object but null: remove it and it is written anew")
	}
	return config, nil
}

func marshal(config object) ([]byte, error) {
	text, err := json.MarshalIndent(config, "", "  ")
	return append(text, '\n'), err
}

// fresh is a list of plugins for an empty file.
func fresh(want Network) object {
	bridge := object{
		"type":             "bridge",
		"isDefaultGateway": true,
		"hairpinMode":      want.Hairpin,
		"ipMasq":           false, // the agent masquerades, and only what leaves the cluster
	}
	_ = update(bridge, want) // has nothing that could be wrong
	portmap := object{
		"type":         "portmap",
		"snat":         true,
		"capabilities": object{"portMappings": true},
	}
	return object{"cniVersion": version, "name": "kube-router", "plugins": []any{bridge, portmap}}
}

// bridgePlugin returns the configuration of the bridge plugin: an entry of a
// list, or the whole file where that is for a single plugin.
func bridgePlugin(config object) (object, error) {
	if config["type"] == "bridge" {
		return config, nil
	}
	plugins, _ := config["plugins"].([]any)
	for _, p := range plugins {
		if plugin, ok := p.(object); ok && plugin["type"] == "bridge" {
			return plugin, nil
		}
	}
	return nil, errors.New(`it has no plugin of type "bridge": remove it and it is written anew, or run with --enable-cni=false`)
}

// update writes what the agent decides into the bridge plugin's configuration.
func update(plugin object, want Network) error {
	plugin["bridge"] = want.Bridge
	if want.MTU > 0 {
		plugin["mtu"] = want.MTU
	}
	if want.Hairpin {
		plugin["hairpinMode"] = true
	}
	ipam, isObject := plugin["ipam"].(object)
	switch {
	case plugin["ipam"] == nil:
		ipam = object{"type": "host-local"}
		plugin["ipam"] = ipam
	case !isObject:
		return errors.New(`its "ipam" is no object: repair it, or remove the file and it is written anew`)
	case ipam["type"] != "host-local":
		return nil // somebody else hands out the addresses
	}
	setRanges(ipam, want.PodCIDRs)
	return nil
}

// setRanges makes host-local hand out addresses of the Pod CIDRs and no other:
// nobody would route to those. Ranges inside a Pod CIDR stay as they are, so
// that a part of it can be kept free.
func setRanges(ipam object, cidrs []netip.Prefix) {
	var sets []any
	for _, cidr := range cidrs {
		set := rangesIn(ipam, cidr)
		if set == nil {
			set = []any{object{"subnet": cidr.String()}}
		}
		sets = append(sets, set)
	}
	if len(sets) == 0 {
		return
	}
	for _, legacy := range []string{"subnet", "rangeStart", "rangeEnd", "gateway"} {
		delete(ipam, legacy) // the older form of a single range, folded into ranges
	}
	ipam["ranges"] = sets
}

// rangesIn returns the ranges that lie within cidr, or nil.
func rangesIn(ipam object, cidr netip.Prefix) []any {
	var inside []any
	for _, set := range rangeSets(ipam) {
		for _, r := range set {
			if subnet, ok := subnetOf(r); ok && cidr.Bits() <= subnet.Bits() && cidr.Contains(subnet.Addr()) {
				inside = append(inside, r)
			}
		}
	}
	return inside
}

// rangeSets returns the ranges of the file, that of the older form first.
func rangeSets(ipam object) [][]object {
	var sets [][]object
	if ipam["subnet"] != nil {
		legacy := object{}
		for _, name := range []string{"subnet", "rangeStart", "rangeEnd", "gateway"} {
			if v, ok := ipam[name]; ok {
				legacy[name] = v
			}
		}
		sets = append(sets, []object{legacy})
	}
	list, _ := ipam["ranges"].([]any)
	for _, s := range list {
		var set []object
		ranges, _ := s.([]any)
		for _, r := range ranges {
			if r, ok := r.(object); ok {
				set = append(set, r)
			}
		}
		sets = append(sets, set)
	}
	return sets
}

func subnetOf(r object) (netip.Prefix, bool) {
	text, _ := r["subnet"].(string)
	subnet, err := netip.ParsePrefix(strings.TrimSpace(text))
	return subnet.Masked(), err == nil
}
