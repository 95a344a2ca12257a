// Package docs checks what the manual says of the program. What needs the
// insides of a package is checked there.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// manual are the files of the manual, by their path from the top of the tree.
func manual(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, pattern := range []string{"../README.md", "*.md", "../lab/README.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		for _, name := range found {
			files[filepath.Join("docs", name)] = read(t, name)
		}
	}
	return files
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// anchors are what headings can be linked to by.
func anchors(text string) map[string]bool {
	all := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		all[strings.Map(func(r rune) rune {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			case r == ' ':
				return '-'
			}
			return -1
		}, heading[1])] = true
	}
	return all
}

// Every link within the tree leads to a file, and to a heading of it.
func TestLinks(t *testing.T) {
	files, links := manual(t), 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(files[name], -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			links++
			path, anchor, _ := strings.Cut(link[1], "#")
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s: %s leads nowhere", name, link[1])
			} else if anchor != "" && !anchors(files[target])[anchor] {
				t.Errorf("%s: %s has no heading %s", name, target, anchor)
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
}

// README's list of the manual has each file.
func TestEveryPageIsListed(t *testing.T) {
	readme := read(t, "../README.md")
	for name := range manual(t) {
		if strings.HasPrefix(name, "docs/") && !strings.Contains(readme, "]("+name+")") {
			t.Errorf("README.md does not lead to %s", name)
		}
	}
}

// annotations.md has every annotation and label that the code reads, and no
// other.
func TestAnnotationsAreDocumented(t *testing.T) {
	known := keysInCode(t)
	documented := map[string]bool{}
	for line := range strings.Lines(read(t, "annotations.md")) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		for _, key := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
			documented[key[1]] = true
		}
	}
	for key, where := range known {
		if !documented[key] && key != discoveryv1.LabelServiceName { // of which the text tells
			t.Errorf("annotations.md lacks %s, which %s reads", key, where)
		}
	}
	for key := range documented {
		if known[key] == "" {
			t.Errorf("annotations.md has %s, which nothing reads", key)
		}
	}
	if len(known) < 30 {
		t.Errorf("only %d keys were found in the code", len(known))
	}
}

// libraryKeys are the constants for keys that the code has from the API's own
// packages.
var libraryKeys = map[string]string{
	"corev1.AnnotationLoadBalancerSourceRangesKey": corev1.AnnotationLoadBalancerSourceRangesKey,
	"corev1.IsHeadlessService":                     corev1.IsHeadlessService,
	"discoveryv1.LabelServiceName":                 discoveryv1.LabelServiceName,
}

// Reasons of Events are what users search for.
func TestEventsAreDocumented(t *testing.T) {
	var pages strings.Builder
	for _, text := range manual(t) {
		pages.WriteString(text)
	}
	reason := regexp.MustCompile(`^[A-Z][a-z]+([A-Z][A-Za-z]*)+$`)
	others := []string{"EndpointSlice", "NetworkPolicy"}
	found := 0
	for _, dir := range []string{"services", "lbipam", "routes", "peering", "advice", "healthcheck", "cluster/watch"} {
		for _, name := range sources(t, "../internal/"+dir) {
			if strings.HasSuffix(name, "/scheme.go") { // kinds of the API
				continue
			}
			for word := range literals(t, name) {
				if !reason.MatchString(word) || slices.Contains(others, word) {
					continue
				}
				found++
				if !strings.Contains(pages.String(), "`"+word+"`") {
					t.Errorf("%s: the manual does not say what %s means", name, word)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d reasons were found in the code", found)
	}
}

// literals are the texts in a file.
func literals(t *testing.T, name string) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				texts[text] = true
			}
		}
		return true
	})
	return texts
}

// keysInCode are the annotations and labels that the packages have constants
// for, with the package.
func keysInCode(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	key := regexp.MustCompile(`^[a-z.]*(kube-router|kubernetes)\.io/[a-z0-9.-]+$`)
	library := regexp.MustCompile(`\b(corev1|discoveryv1)\.(Annotation\w+|Label\w+|IsHeadlessService)\b`)
	err := filepath.WalkDir("../internal", func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		for _, value := range constants(t, dir) {
			if key.MatchString(value) {
				found[value] = dir
			}
		}
		for _, name := range sources(t, dir) {
			for _, constant := range library.FindAllString(read(t, name), -1) {
				if libraryKeys[constant] == "" {
					t.Errorf("%s: libraryKeys does not know %s", name, constant)
				}
				found[libraryKeys[constant]] = dir
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sources are the files of a package that are not tests.
func sources(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
}

// constants are the values of a package's string constants: literals, names of
// others, and sums of these.
func constants(t *testing.T, dir string) map[string]string {
	t.Helper()
	defined := map[string]ast.Expr{}
	for _, name := range sources(t, dir) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if general, ok := decl.(*ast.GenDecl); ok && general.Tok == token.CONST {
				for _, spec := range general.Specs {
					s := spec.(*ast.ValueSpec)
					for i, value := range s.Values {
						defined[s.Names[i].Name] = value
					}
				}
			}
		}
	}
	var value func(ast.Expr) string
	value = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			text, _ := strconv.Unquote(e.Value)
			return text
		case *ast.Ident:
			return value(defined[e.Name])
		case *ast.BinaryExpr:
			return value(e.X) + value(e.Y)
		}
		return ""
	}
	values := map[string]string{}
	for name, e := range defined {
		values[name] = value(e)
	}
	return values
}
