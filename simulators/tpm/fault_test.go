package tpm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-project/assay/simulators/internal/fault"
)

func TestEveryFaultIsDescribed(t *testing.T) {
	var labels []fault.Label
	for _, f := range Faults() {
		labels = append(labels, fault.Label{Name: f.Name, Description: f.Description, Check: f.Check, Kind: f.Kind, Stage: f.Stage})
		if found, ok := FaultByName(f.Name); !ok || found.Description != f.Description {
			t.Errorf("%s is not found by its name", f.Name)
		}
	}
	for _, c := range fault.Complaints(labels) {
		t.Error(c)
	}
	if _, ok := FaultByName("no-such-fault"); ok {
		t.Error("a fault was found that there is not")
	}
}

// symptoms says for each fault of keys, quotes and certified keys what a client
// finds wrong, and nothing else.
func symptoms() map[string][]string {
	return map[string][]string{
		"ak-not-restricted":          {"AK restricted"},
		"ak-not-fixed":               {"AK fixed"},
		"ak-p521":                    {"AK kind"},
		"ak-rsa1024":                 {"AK kind"},
		"ak-sha1":                    {"AK kind"},
		"ak-owner-hierarchy":         {"AK hierarchy"},
		"ek-other-tpm":               {"activation"},
		"credential-flipped":         {"activation"},
		"quote-trailing-byte":        {"quote whole", "quote signature"},
		"quote-magic":                {"quote magic", "quote signature"},
		"quote-is-a-certify":         {"quote type"},
		"quote-signature-flipped":    {"quote signature"},
		"quote-sha1-bank":            {"quoted banks", "quoted registers", "register digest"},
		"quote-two-banks":            {"quoted banks", "register digest"},
		"quote-no-registers":         {"quoted registers", "register digest"},
		"quote-resettable-registers": {"quoted registers", "register digest"},
		"quote-fewer-registers":      {"quoted registers", "register digest"},
		"pcr-boundary-shift":         {"length of PCR0", "length of PCR1"},
		"pcr-value-flipped":          {"register digest"},
		"quote-no-data":              {"quote data"},
		"quote-other-data":           {"quote data"},
		"quote-replayed":             {"quote data"},
		"certify-signature-flipped":  {"certify signature"},
		"certify-is-a-quote":         {"certify type"},
		"certify-other-key":          {"certify name", "certify hierarchy"},
		"resident-owner-hierarchy":   {"certify hierarchy"},
		"resident-not-fixed":         {"resident fixed"},
		"resident-not-stclear":       {"resident stClear"},
		"certify-other-data":         {"certify data"},
	}
}

func TestEveryFaultOfKeysAndQuotesIsSeenByAClientAndAlone(t *testing.T) {
	needTPM(t)
	a := newTestAuthority(t)
	for _, f := range slices.Concat(keyFaults(), quoteFaults(), certifyFaults()) {
		t.Run(f.Name, func(t *testing.T) {
			want, ok := symptoms()[f.Name]
			if !ok {
				t.Fatal("the test says nothing of this fault")
			}
			tpm := startWith(t, a, Machine{}, f)
			data := []byte("binding")
			if f.Name == "quote-replayed" {
				attestTo(t, tpm, []byte("an earlier binding"))
			}
			if diff := cmp.Diff(want, attestTo(t, tpm, data).wrong(data)); diff != "" {
				t.Errorf("(-want +wrong)\n%s", diff)
			}
		})
	}
}

// certificateIn reads what is in the place of the P-256 EK certificate.
func certificateIn(t *testing.T, tpm transport.TPM) []byte {
	t.Helper()
	b, err := readNV(tpm, 0x01c0000a)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readNV reads an index as an agent does.
func readNV(tpm transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		return nil, err
	}
	info, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	var out []byte
	for len(out) < int(info.DataSize) {
		r, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       min(512, info.DataSize-uint16(len(out))), Offset: uint16(len(out)),
		}.Execute(tpm)
		if err != nil {
			return nil, err
		}
		out = append(out, r.Data.Buffer...)
	}
	return out, nil
}

// complaints is what a verifier says of an EK certificate.
func (a *Authority) complaints(t *testing.T, der []byte, key crypto.PublicKey) string {
	t.Helper()
	c, err := x509.ParseCertificate(bytes.TrimRight(der, "\x00"))
	if err != nil {
		return "chain_parse"
	}
	if public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key) {
		return "ek_certificate_key"
	}
	if !slices.ContainsFunc(c.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return "ek_eku"
	}
	if !namesTPM(c) {
		return "ek_san"
	}
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool { return id.Equal(oidSubjectName) })
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.root.cert)
	between.AddCert(a.intermediate.cert)
	now := time.Now()
	_, err = c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	switch {
	case now.Before(c.NotBefore) || now.After(c.NotAfter):
		return "ek_chain_validity"
	case err != nil:
		return "ek_chain"
	}
	return ""
}

// namesTPM reports whether the alternative name has all three parts.
func namesTPM(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSubjectName) || !e.Critical {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 || len(names) != 1 || names[0].Tag != 4 {
			return false
		}
		var rdn pkix.RDNSequence
		if rest, err := asn1.Unmarshal(names[0].Bytes, &rdn); err != nil || len(rest) > 0 {
			return false
		}
		found := map[string]any{}
		for _, set := range rdn {
			for _, a := range set {
				found[a.Type.String()] = a.Value
			}
		}
		return found[oidManufacturer.String()] == Manufacturer && found[oidModel.String()] == Model && found[oidVersion.String()] == Version
	}
	return false
}

func TestEveryFaultOfTheEKCertificateIsSeen(t *testing.T) {
	needTPM(t)
	a := newTestAuthority(t)
	for _, f := range certificateFaultList() {
		t.Run(f.Name, func(t *testing.T) {
			tpm := startWith(t, a, Machine{}, f)
			ek, _ := tpm.EK(P256)
			if f.Name == "ek-no-certificate" {
				if _, err := readNV(tpm, 0x01c0000a); err == nil || ek.Certificate != nil {
					t.Error("there is one")
				}
				return
			}
			key, err := publicKey(ek.Public)
			if err != nil {
				t.Fatal(err)
			}
			if got := a.complaints(t, certificateIn(t, tpm), key); got != f.Check {
				t.Errorf("a verifier says %q, want %q", got, f.Check)
			}
		})
	}
}

func TestEveryFaultOfTheEventLogIsSeen(t *testing.T) {
	needTPM(t)
	a := newTestAuthority(t)
	for _, f := range logFaults() {
		t.Run(f.Name, func(t *testing.T) {
			tpm := startWith(t, a, Machine{Boot: Boot{CommandLine: "ro secret=none"}}, f)
			_, err := replayed(tpm.EventLog(), crypto.SHA256, readPCRs(t, tpm, crypto.SHA256))
			switch {
			case f.Check == "":
				if err != nil || bytes.Contains(tpm.EventLog(), []byte("ro secret=none")) {
					t.Errorf("%v, or the text is there still", err)
				}
			case err == nil:
				t.Error("it replays")
			case (f.Check == "event_log_replay") != strings.Contains(err.Error(), "replay"):
				t.Errorf("%s: %v", f.Check, err)
			}
		})
	}
}

func TestAMachineIsGoodAgainWithoutItsFaults(t *testing.T) {
	needTPM(t)
	a := newTestAuthority(t)
	dir := t.TempDir()
	f, _ := FaultByName("ek-other-authority")
	var before []byte
	for i, faults := range [][]Fault{nil, {f}, nil} {
		tpm := startWith(t, a, Machine{State: dir, EKs: []EKKind{P256}}, faults...)
		ek, _ := tpm.EK(P256)
		key, err := publicKey(ek.Public)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"", "ek_chain", ""}[i]
		if got := a.complaints(t, certificateIn(t, tpm), key); got != want {
			t.Errorf("start %d: a verifier says %q, want %q", i, got, want)
		}
		if before != nil && !bytes.Equal(before, ek.Public) {
			t.Errorf("start %d: the EK is another", i)
		}
		before = ek.Public
		if err := tpm.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
