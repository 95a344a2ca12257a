package ipvs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// captured is an answer that Linux 6.1 gave, which is also a seed of the fuzz
// test.
func captured(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "fuzz", "FuzzAnswers", name))
	if err != nil {
		t.Fatal(err)
	}
	_, literal, _ := strings.Cut(string(text), "[]byte(")
	value, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(literal), ")"))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(value)
}

func TestDecodeServices(t *testing.T) {
	servers := map[ID]Server{}
	err := nlsock.DecodeAnswers(captured(t, "services"), func(a nlsock.Answer) error {
		id, config, ok, err := decodeService(a.Body)
		if ok {
			servers[id] = Server{Config: config}
		}
		return err
	})
	want := "-A -f 7 -s rr\n-A -t 10.96.0.20:80 -s rr -p 10800\n-A -t [fd00:96::1]:443 -s rr\n"
	if got := Text(servers); err != nil || got != want {
		t.Errorf("%v:\n%swant:\n%s", err, got, want)
	}
}

func TestDecodeReals(t *testing.T) {
	for name, test := range map[string]struct {
		id   ID
		want []string
	}{
		"reals-ipv4": {tcp("10.96.0.20:80"), []string{"10.244.2.7:8080 -m -w 3", "10.244.1.5:8080 -m -w 1"}},
		"reals-ipv6": {tcp("[fd00:96::1]:443"), []string{"[fd00:244::5]:6443 -m -w 1"}},
	} {
		var got []string
		err := nlsock.DecodeAnswers(captured(t, name), func(a nlsock.Answer) error {
			d, err := decodeDest(a.Body, test.id)
			got = append(got, d.addr.String()+" "+d.real.String())
			return err
		})
		if err != nil || strings.Join(got, "\n") != strings.Join(test.want, "\n") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
		}
	}
}

func TestDecodeRefusal(t *testing.T) {
	err := nlsock.DecodeAnswers(captured(t, "refusal"), func(a nlsock.Answer) error {
		errno, err := a.Errno()
		return errors.Join(errno, err)
	})
	if !errors.Is(err, syscall.EEXIST) {
		t.Errorf("%v, want EEXIST", err)
	}
}

// Every prefix of an answer is an error or a smaller answer, never a crash,
// and what the decoder accepts the encoder writes back as it was.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		nlsock.DecodeAnswers(datagram, func(a nlsock.Answer) error {
			a.Errno()
			id, config, ok, err := decodeService(a.Body)
			if err == nil && ok {
				roundTrip(t, addServer(id, config))
				decodeDest(a.Body, id)
			}
			decodeDest(a.Body, tcp("10.96.0.1:80"))
			decodeDest(a.Body, tcp("[fd00::1]:80"))
			decodeTimeouts(a.Body)
			return nil
		})
	})
}

func roundTrip(t *testing.T, c Change) {
	if check(c) != nil {
		return // a foreign service that we would not make
	}
	id, config, ok, err := decodeService(appendChange(nil, c))
	if err != nil || !ok || id != c.ID || config != c.Config {
		t.Errorf("%s came back as %s %s, %v, %v", c, id, config, ok, err)
	}
}
