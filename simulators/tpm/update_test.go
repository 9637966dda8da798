package tpm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "make the certificates of the simulated secure boot anew")

func TestTheSecureBootCertificatesParse(t *testing.T) {
	for name, commonName := range map[string]string{
		certPK: "Simulated Platform Key", certKEK: "Simulated Key Exchange Key", certDB: "Simulated UEFI CA", certShim: "Simulated Distribution Secure Boot CA",
	} {
		if *update {
			makeCertificate(t, name, commonName)
			continue // the embedded one is still the last
		}
		der, err := uefiCertificate(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Subject.CommonName != commonName {
			t.Errorf("%s is %q, want %q", name, c.Subject.CommonName, commonName)
		}
	}
}

// makeCertificate makes one whose key is thrown away.
func makeCertificate(t *testing.T, name, commonName string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: commonName, Organization: []string{"Assay Simulation"}},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", "uefi", name+".der"), der, 0o644); err != nil {
		t.Fatal(err)
	}
}
