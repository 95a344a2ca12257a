package stamp

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFresh(t *testing.T) {
	dir := t.TempDir()
	input, output, file := filepath.Join(dir, "in"), filepath.Join(dir, "out"), filepath.Join(dir, "stamps", "s")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := func() string {
		t.Helper()
		k, err := new(Sum).Text("flags").File(input).Key()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write(input, "one")
	write(output, "made")
	if Fresh(file, key(), output) {
		t.Error("fresh without a stamp")
	}
	if err := Write(file, key()); err != nil {
		t.Fatal(err)
	}
	if !Fresh(file, key(), output) {
		t.Error("not fresh after the stamp was written")
	}
	write(input, "two")
	if Fresh(file, key(), output) {
		t.Error("fresh although the input changed")
	}
	write(input, "one")
	if err := os.Remove(output); err != nil {
		t.Fatal(err)
	}
	if Fresh(file, key(), output) {
		t.Error("fresh although the output is gone")
	}
}

func TestSumSeparatesItsParts(t *testing.T) {
	a, _ := new(Sum).Text("ab", "c").Key()
	b, _ := new(Sum).Text("a", "bc").Key()
	if a == b {
		t.Error(`("ab", "c") and ("a", "bc") have the same key`)
	}
	if _, err := new(Sum).File("/nonexistent").Key(); err == nil {
		t.Error("a missing input gave no error")
	}
}
