package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"strconv"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

// directory is the chart's, from the top of the tree.
const directory = "deploy/helm/kube-router"

// chart is the Helm chart. Its templates use no more than text/template and the
// functions below, which do what Helm's of the same name do.
type chart struct {
	templates *template.Template
	values    values
}

func openChart(root fs.FS) (chart, error) {
	text, err := fs.ReadFile(root, directory+"/values.yaml")
	if err != nil {
		return chart{}, err
	}
	c := chart{templates: template.New("").Option("missingkey=error").Funcs(functions())}
	if err := yaml.Unmarshal(text, &c.values); err != nil {
		return chart{}, fmt.Errorf("%s/values.yaml: %w", directory, err)
	}
	_, err = c.templates.ParseFS(root, directory+"/templates/*.yaml")
	return c, err
}

func functions() template.FuncMap {
	return template.FuncMap{
		"hasPrefix": func(prefix, s string) bool { return strings.HasPrefix(s, prefix) },
		"quote":     func(v any) string { return strconv.Quote(fmt.Sprint(v)) },
		"toString":  func(v any) string { return fmt.Sprint(v) },
		"toYaml": func(v any) (string, error) {
			text, err := yaml.Marshal(v)
			return strings.TrimSuffix(string(text), "\n"), err
		},
		"nindent": func(n int, text string) string {
			pad := "\n" + strings.Repeat(" ", n)
			return pad + strings.ReplaceAll(text, "\n", pad)
		},
	}
}

// render is templates of the chart with other values, as one stream.
func (c chart) render(with values, names ...string) ([]byte, error) {
	data := values{"Values": merge(c.values, with), "Release": values{"Namespace": "kube-system"}}
	var b bytes.Buffer
	for i, name := range names {
		if i > 0 {
			b.WriteString("---\n")
		}
		if err := c.templates.ExecuteTemplate(&b, name+".yaml", data); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// merge is one tree of values over another, as Helm lays them.
func merge(under, over values) values {
	result := maps.Clone(under)
	for key, value := range over {
		if below, ok := value.(values); ok {
			if have, ok := result[key].(values); ok {
				value = merge(have, below)
			}
		}
		result[key] = value
	}
	return result
}
