package sevsnp

import (
	"bytes"
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestALaunchThatNoFirmwareTakesIsRefused(t *testing.T) {
	c := testChip(t, testAuthority(t), Milan)
	for want, l := range map[string]Launch{
		"report version 6":      {Version: 6},
		"report version 1":      {Version: 1},
		"VMPL 4":                {VMPL: 4},
		"signing key":           {SigningKey: "asvk"},
		"the measurement has 3": {Measurement: []byte("abc")},
		"the report id has 3":   {ReportID: []byte("abc")},
		"the host data have 33": {HostData: make([]byte, 33)},
		"key digest":            {AuthorKeyDigest: make([]byte, 49)},
		"family or image id":    {ImageID: make([]byte, 17)},
	} {
		if _, err := c.Launch(l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := testAuthority(t).Chip("rome", "x"); err == nil {
		t.Error("a chip of no product")
	}
	if _, err := testAuthority(t).VLEK("rome", "x", TCB{}); err == nil {
		t.Error("a VLEK for no product")
	}
	for name, want := range map[string]Product{"Milan": Milan, "bergamo": Siena, "TURIN": Turin} {
		if p, err := ParseProduct(name); err != nil || p != want {
			t.Errorf("ParseProduct(%q) = %v, %v", name, p, err)
		}
	}
	if _, err := ParseProduct("rome"); err == nil {
		t.Error("ParseProduct finds a product that does not exist")
	}
}

// A chip is what its name says, and nobody else.
func TestChipsDifferInNameProductAndAuthority(t *testing.T) {
	a := testAuthority(t)
	seen := make(map[string]string)
	for _, p := range Products() {
		for _, name := range []string{"one", "two"} {
			c, err := a.Chip(p, name)
			if err != nil {
				t.Fatal(err)
			}
			der, err := c.VCEK(p.DefaultTCB())
			if err != nil {
				t.Fatal(err)
			}
			for what, v := range map[string][]byte{"id": c.ID(), "key": parse(t, der).RawSubjectPublicKeyInfo} {
				if other, ok := seen[string(v)]; ok {
					t.Errorf("%s %s and %s have the same %s", p, name, other, what)
				}
				seen[string(v)] = string(p) + " " + name
			}
		}
	}
	again, err := a.Chip(Genoa, "one")
	if err != nil {
		t.Fatal(err)
	}
	if seen[string(again.ID())] != "genoa one" {
		t.Error("the same name gives another chip the second time")
	}
}

// Two guests of one image on one chip differ in their report id, and two reports
// of one guest in nothing but what was asked for and the signature.
func TestReportsOfOneGuest(t *testing.T) {
	c := testChip(t, testAuthority(t), Genoa)
	g, h := testGuest(t, c, Launch{}), testGuest(t, c, Launch{})
	if bytes.Equal(g.ReportID(), h.ReportID()) {
		t.Error("two guests have one report id")
	}
	r, err := g.Report([64]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.Report([64]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(r[signedSize:], s[signedSize:]) {
		t.Error("two reports have one signature")
	}
	r[offReportData] = 2
	if !bytes.Equal(r[:signedSize], s[:signedSize]) {
		t.Error("two reports of one guest differ in more than their data")
	}
}

func TestCertificatesAreMadeOnceUntilTheyExpire(t *testing.T) {
	now := &clock{t: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a, err := NewAuthority(Options{Now: now.now})
	if err != nil {
		t.Fatal(err)
	}
	leaf := func() *x509.Certificate {
		return parse(t, testGuest(t, testChip(t, a, Milan), Launch{SigningKey: VLEK}).Endorsements()[0])
	}
	first := leaf()
	now.pass(vlekLifetime - leafAge - time.Second)
	if !bytes.Equal(leaf().Raw, first.Raw) {
		t.Error("the certificate was made again before it had expired")
	}
	now.pass(2 * time.Second)
	second := leaf()
	if bytes.Equal(second.Raw, first.Raw) || now.now().After(second.NotAfter) {
		t.Errorf("after it has expired: valid until %v", second.NotAfter)
	}
	if !bytes.Equal(second.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) {
		t.Error("the new certificate has another key")
	}
}

func TestAnAuthorityIsSafeForConcurrentUse(t *testing.T) {
	a := testAuthority(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c, err := a.Chip(Products()[i%4], "shared")
			if err != nil {
				t.Error(err)
				return
			}
			f := Faults()[i]
			if !f.Applies(c.Product(), VCEK) {
				f = Fault{}
			}
			g, err := c.Launch(Launch{CRL: true}, f)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := g.Report([64]byte{byte(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
