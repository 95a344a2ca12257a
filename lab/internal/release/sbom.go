package release

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/stamp"
)

// part is something that a program or an image has in it.
type part struct {
	name, version string
	purl          string // https://github.com/package-url/purl-spec
	supplier      string
	sha256        string // of a module: what go.sum has, in hexadecimal; or empty
}

// modulesOf are the Go modules in a program, and Go itself, as go version -m
// tells them.
func modulesOf(program string) ([]part, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("%s does not say what it was built from: %w", program, err)
	}
	version := strings.TrimPrefix(info.GoVersion, "go")
	parts := []part{{name: "stdlib", version: version, purl: "pkg:golang/stdlib@" + version}}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		if m == &info.Main && (m.Version == "" || m.Version == "(devel)") {
			continue // built from these sources, which the file's own entry is about
		}
		sum, err := moduleSum(m.Sum)
		if err != nil {
			return nil, fmt.Errorf("%s: module %s: %w", program, m.Path, err)
		}
		parts = append(parts, part{name: m.Path, version: m.Version, purl: "pkg:golang/" + m.Path + "@" + m.Version, sha256: sum})
	}
	return parts, nil
}

// moduleSum is the SHA-256 of a checksum as go.sum has it: of the list of the
// module's files and their digests (golang.org/x/mod/sumdb/dirhash). A module
// that is a directory has none.
func moduleSum(sum string) (string, error) {
	if sum == "" {
		return "", nil
	}
	encoded, ok := strings.CutPrefix(sum, "h1:")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(raw) != sha256.Size {
		return "", fmt.Errorf("%q is no SHA-256 of go.sum's", sum)
	}
	return hex.EncodeToString(raw), nil
}

// The parts of SPDX 2.3 that are used (https://spdx.github.io/spdx-spec/v2.3).
type spdxDocument struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      spdxCreation   `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []spdxRelation `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string          `json:"SPDXID"`
	Name      string          `json:"name"`
	Version   string          `json:"versionInfo"`
	Supplier  string          `json:"supplier,omitempty"`
	Download  string          `json:"downloadLocation"`
	Analyzed  bool            `json:"filesAnalyzed"`
	Purpose   string          `json:"primaryPackagePurpose,omitempty"`
	Checksums []spdxChecksum  `json:"checksums,omitempty"`
	Refs      []spdxReference `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxReference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelation struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// writeSBOM writes FILE.spdx.json: what is in a file of the release.
func (r run) writeSBOM(file, purpose string, parts []part) error {
	digest, err := stamp.FileDigest(file)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(sbom(filepath.Base(file), r.Version, digest, purpose, r.Time, parts), "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file+".spdx.json", append(text, '\n'), 0o644)
}

func sbom(name, version, digest, purpose string, at time.Time, parts []part) spdxDocument {
	const root = "SPDXRef-Package-0"
	d := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name,
		Namespace: "https://github.com/kube-router/kube-router/sbom/" + name + "-" + digest,
		Creation:  spdxCreation{at.UTC().Format(time.RFC3339), []string{"Tool: kube-router-release"}},
		Packages: []spdxPackage{{
			ID: root, Name: "kube-router", Version: version, Download: noAssertion, Purpose: purpose,
			Checksums: []spdxChecksum{{"SHA256", digest}},
		}},
		Relationships: []spdxRelation{{"SPDXRef-DOCUMENT", "DESCRIBES", root}},
	}
	for i, p := range unique(parts) {
		id := fmt.Sprintf("SPDXRef-Package-%d", i+1)
		var sums []spdxChecksum
		if p.sha256 != "" {
			sums = []spdxChecksum{{"SHA256", p.sha256}}
		}
		d.Packages = append(d.Packages, spdxPackage{
			ID: id, Name: p.name, Version: p.version, Supplier: p.supplier, Download: noAssertion, Checksums: sums,
			Refs: []spdxReference{{"PACKAGE-MANAGER", "purl", p.purl}},
		})
		d.Relationships = append(d.Relationships, spdxRelation{root, "CONTAINS", id})
	}
	return d
}

// unique are the parts sorted, each once.
func unique(parts []part) []part {
	sorted := slices.SortedFunc(slices.Values(parts), func(a, b part) int { return cmp.Compare(a.purl, b.purl) })
	return slices.Compact(sorted)
}
