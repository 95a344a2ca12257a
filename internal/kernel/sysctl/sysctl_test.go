package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// suite holds fake and files to the same behaviour.
func suite(t *testing.T, fresh func(t *testing.T, values map[string]string) Interface) {
	s := fresh(t, map[string]string{"net/ipv4/ip_forward": "0", "net/ipv4/tcp_rmem": "4096\t131072\t6291456"})
	set := func(name, value string, wantChanged bool) {
		t.Helper()
		if changed, err := s.Set(name, value); err != nil || changed != wantChanged {
			t.Errorf("Set(%s, %s) = %t, %v, want %t", name, value, changed, err, wantChanged)
		}
	}
	set("net/ipv4/ip_forward", "0", false)
	set("net/ipv4/ip_forward", "1", true)
	set("net/ipv4/ip_forward", "1", false)
	set("net/ipv4/tcp_rmem", "4096 131072 6291456", false)
	if value, err := s.Get("net/ipv4/ip_forward"); err != nil || value != "1" {
		t.Errorf("Get = %q, %v", value, err)
	}
	for _, name := range []string{"net/bridge/bridge-nf-call-iptables", "net/ipv4/vs/conntrack"} {
		_, err := s.Set(name, "1")
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "modprobe") {
			t.Errorf("Set(%s): %v, want what is missing and the module to load", name, err)
		}
	}
}

func TestFake(t *testing.T) {
	suite(t, func(t *testing.T, values map[string]string) Interface { return NewFake(values) })
}

func TestFiles(t *testing.T) {
	suite(t, func(t *testing.T, values map[string]string) Interface {
		root := t.TempDir()
		for name, value := range values {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return New(root)
	})
}

func TestReadOnlySaysWhatToDo(t *testing.T) {
	f := NewFake(map[string]string{"net/ipv4/ip_forward": "0"})
	f.SetReadOnly(true)
	_, err := f.Set("net/ipv4/ip_forward", "1")
	for _, want := range []string{"net/ipv4/ip_forward", `"0"`, `"1"`, "privileged", "/host/proc/sys/net"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %s", err, want)
		}
	}
	if changed, err := f.Set("net/ipv4/ip_forward", "0"); changed || err != nil {
		t.Errorf("what is right already needs no write: %t, %v", changed, err)
	}
}

func TestNamesStayBelowTheRoot(t *testing.T) {
	for _, name := range []string{"../etc/passwd", "/etc/passwd", ""} {
		if _, err := New(t.TempDir()).Get(name); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Get(%q): %v, want a refusal", name, err)
		}
	}
}
