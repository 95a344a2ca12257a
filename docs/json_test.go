package docs

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/admin"
)

// The tables of operate.md have each field of the JSON, and no other. A list
// has brackets behind its name.
func TestJSONIsDocumented(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "operate.md"), "\n## JSON\n")
	section, _, _ = strings.Cut(section, "\n## ")
	status, show, found := strings.Cut(section, "\n`show`, ")
	if !found {
		t.Fatal("operate.md has no table of what show prints")
	}
	rows := func(table string) map[string]string {
		all := map[string]string{}
		for _, row := range regexp.MustCompile("(?m)^\\| (`.*`) \\| (.*) \\|$").FindAllStringSubmatch(table, -1) {
			all[row[1]] = row[2]
		}
		return all
	}
	var top []string
	for names, text := range rows(status) {
		top = append(top, quoted(names)...)
		for name, kind := range map[string]any{"`apiServer`": admin.APIServer{}, "`controllers[]`": admin.Controller{}, "`advice[]`": admin.Advice{}} {
			if name == names {
				same(t, names, quoted(text), fields(reflect.TypeOf(kind), true))
			}
		}
	}
	same(t, "status", top, fields(reflect.TypeFor[admin.Status](), false))
	shown := rows(show)
	for name, kind := range map[string]any{
		"peers": admin.Peer{}, "routes": admin.Route{}, "services": admin.Service{}, "policies": admin.Policy{}, "sets": admin.Set{},
	} {
		same(t, name, quoted(shown["`"+name+"`"]), fields(reflect.TypeOf(kind), true))
	}
}

// values stand in the tables as well.
var values = []string{"false", "warning", "note", "mesh", "client", "reflector", "external", "Established", "Active", "Up", "Down", "…"}

// quoted are the words of a text that are set as code, but for values.
func quoted(text string) []string {
	var words []string
	for _, word := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(text, -1) {
		if !slices.Contains(values, word[1]) {
			words = append(words, word[1])
		}
	}
	return words
}

// fields are the names of a type's fields in JSON, and if deep of theirs.
func fields(kind reflect.Type, deep bool) []string {
	var names []string
	for _, field := range reflect.VisibleFields(kind) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		elem := field.Type
		if elem.Kind() == reflect.Slice {
			name, elem = name+"[]", elem.Elem()
		}
		names = append(names, name)
		if deep && elem.Kind() == reflect.Struct && elem.PkgPath() == kind.PkgPath() {
			names = append(names, fields(elem, true)...)
		}
	}
	return names
}

// same compares two lists as sets.
func same(t *testing.T, what string, documented, real []string) {
	t.Helper()
	for _, name := range real {
		if !slices.Contains(documented, name) {
			t.Errorf("%s: the field %s is not in operate.md", what, name)
		}
	}
	for _, name := range documented {
		if !slices.Contains(real, name) {
			t.Errorf("%s: operate.md has %s, which is no field", what, name)
		}
	}
}
