package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity is that of all certificates: a lab lives for hours.
const validity = 30 * 24 * time.Hour

// pair is a certificate and its key, in PEM.
type pair struct {
	cert, key []byte
}

// authority signs the certificates of one cluster.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  pair
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kube-router lab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	p, err := encode(der, key)
	return &authority{cert: cert, key: key, pem: p}, err
}

// client certifies a user and, in Kubernetes' sense, its group.
func (a *authority) client(user, group string) (pair, error) {
	name := pkix.Name{CommonName: user}
	if group != "" {
		name.Organization = []string{group}
	}
	return a.sign(&x509.Certificate{Subject: name, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// server certifies the names and addresses a server is reached by.
func (a *authority) server(name string, addresses ...string) (pair, error) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, s := range append([]string{name}, addresses...) {
		if ip := net.ParseIP(s); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, s)
		}
	}
	return a.sign(template)
}

func (a *authority) sign(template *x509.Certificate) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return pair{}, err
	}
	template.NotBefore, template.NotAfter = a.cert.NotBefore, a.cert.NotAfter
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	return encode(der, key)
}

func encode(cert []byte, key *ecdsa.PrivateKey) (pair, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair{}, err
	}
	return pair{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}, nil
}

// write stores the pair as DIR/NAME.crt and DIR/NAME.key.
func (p pair) write(dir, name string) error {
	return errors.Join(
		writeFile(filepath.Join(dir, name+".crt"), p.cert),
		writeFile(filepath.Join(dir, name+".key"), p.key),
	)
}

// writeFile writes a file that only root reads, with the directories above.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// writePKI makes all that the control plane needs, in dir.
func writePKI(dir, host, service string) (*authority, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	server, err := ca.server("kube-apiserver", host, service, "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc."+domain)
	if err != nil {
		return nil, err
	}
	kubelet, err := ca.client("kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		return nil, err
	}
	accounts, err := ca.client("service-accounts", "") // only its keys are used
	if err != nil {
		return nil, err
	}
	err = errors.Join(ca.pem.write(dir, "ca"), server.write(dir, "apiserver"),
		kubelet.write(dir, "kubelet-client"), accounts.write(dir, "service-accounts"))
	if err != nil {
		return nil, fmt.Errorf("write certificates: %w", err)
	}
	return ca, nil
}
