package ca

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// signedBy signs a row with any key, as its server would.
func signedBy(t *testing.T, key crypto.Signer, row store.Authority) store.Authority {
	t.Helper()
	message, err := authorityBytes(row)
	row.Signature, err = signRow(key, message, err)
	must(t, err)
	return row
}

func changeBy(t *testing.T, key crypto.Signer, ch store.AuthorityChange) store.AuthorityChange {
	t.Helper()
	message, err := changeBytes(ch)
	ch.Signature, err = signRow(key, message, err)
	must(t, err)
	return ch
}

// believed says whether a server believes a row, after it has heard of it.
func believed(t *testing.T, s *testServer, row store.Authority) bool {
	t.Helper()
	must(t, s.ca.Reload(t.Context()))
	return s.ca.now.Load().find(row.Use, row.ID) != nil
}

// A row in the name of another server counts when that server's checkpoint key
// signed it, for this trust domain, and the bootstrap root endorses that key. Each
// case lacks one of them; the first lacks none.
func TestARowOfAnotherServerIsBelievedWhenItSignedIt(t *testing.T) {
	elsewhere := newOffice(t, nil)
	must(t, elsewhere.start(elsewhere.servers[0]))
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, tt := range map[string]struct {
		spoil func(o *office, row store.Authority) store.Authority
		want  bool
	}{
		"signed by its server": {func(o *office, row store.Authority) store.Authority {
			return signedBy(t, o.servers[1].ca.checkpoint, row)
		}, true},
		"not signed": {func(_ *office, row store.Authority) store.Authority { return row }, false},
		"signed by a key that nobody endorses": {func(_ *office, row store.Authority) store.Authority {
			return signedBy(t, stranger, row)
		}, false},
		"signed by another server of the trust domain": {func(o *office, row store.Authority) store.Authority {
			return signedBy(t, o.servers[0].ca.checkpoint, row)
		}, false},
		"in the name of a server that has not joined": {func(o *office, row store.Authority) store.Authority {
			row.Server = "s9"
			return signedBy(t, o.servers[1].ca.checkpoint, row)
		}, false},
		"made for another trust domain": {func(o *office, row store.Authority) store.Authority {
			row.TrustDomain = "simulated.other.example"
			row = signedBy(t, o.servers[1].ca.checkpoint, row)
			row.TrustDomain = td
			return row
		}, false},
		"signed by a server of another trust domain of that name": {func(_ *office, row store.Authority) store.Authority {
			return signedBy(t, elsewhere.servers[0].ca.checkpoint, row)
		}, false},
		"with another key than was signed": {func(o *office, row store.Authority) store.Authority {
			row = signedBy(t, o.servers[1].ca.checkpoint, row)
			row.Public = append([]byte{}, row.Public...)
			row.Public[len(row.Public)-1] ^= 1
			return row
		}, false},
		"with a longer life than was signed": {func(o *office, row store.Authority) store.Authority {
			row = signedBy(t, o.servers[1].ca.checkpoint, row)
			row.NotAfter = row.NotAfter.Add(time.Hour)
			return row
		}, false},
		"for another use than was signed": {func(o *office, row store.Authority) store.Authority {
			row = signedBy(t, o.servers[1].ca.checkpoint, row)
			row.Use, row.KeyName = store.JWT, jwtPrefix+row.ID
			return row
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, nil)
			second := o.join(true)
			must(t, o.start(o.servers[0]))
			must(t, o.start(second))
			f := &fixture{World: nil, dir: o.servers[0].dir, ca: o.servers[0].ca}
			row := ofTheWriterAt(t, f, store.Verifier, "s2", o.clock)
			row.State = store.Prepared
			row = tt.spoil(o, row)
			must(t, o.shared.AddAuthority(t.Context(), row))
			if got := believed(t, o.servers[0], row); got != tt.want {
				t.Errorf("believed: %t, warnings %q", got, o.servers[0].ca.Status().Warnings)
			}
			must(t, o.servers[0].ca.maintain(t.Context(), noStop)) // it goes on all the same
			must(t, o.servers[0].ca.Ready())
			named := false
			for _, k := range o.servers[0].ca.VerifierKeys().Keys {
				der, err := x509.MarshalPKIXPublicKey(k.Key)
				must(t, err)
				named = named || string(der) == string(row.Public)
			}
			if named != tt.want {
				t.Errorf("the document names its key: %t", named)
			}
			if !tt.want && len(o.servers[0].ca.Status().Warnings) == 0 {
				t.Error("no warning")
			}
		})
	}
}

// What is said of an authority counts when a member signed it, and its owner
// where only that may say it.
func TestWhatIsSaidOfAnAuthorityIsBelievedWhenAMemberSaysIt(t *testing.T) {
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, tt := range map[string]struct {
		state store.State
		spoil func(o *office, ch store.AuthorityChange) store.AuthorityChange
		want  bool
	}{
		"a taint by another server": {store.Tainted, func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			return changeBy(t, o.servers[1].ca.checkpoint, ch)
		}, true},
		"a taint by a stranger": {store.Tainted, func(_ *office, ch store.AuthorityChange) store.AuthorityChange { return changeBy(t, stranger, ch) }, false},
		"a taint without a signature": {store.Tainted, func(_ *office, ch store.AuthorityChange) store.AuthorityChange {
			ch.Signature = nil
			return ch
		}, false},
		"a taint of another authority": {store.Tainted, func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			id := ch.ID
			ch.ID = "00000000000000ff"
			ch = changeBy(t, o.servers[1].ca.checkpoint, ch)
			ch.ID = id
			return ch
		}, false},
		"a revocation that was a taint": {store.Revoked, func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			ch.State = store.Tainted
			ch = changeBy(t, o.servers[1].ca.checkpoint, ch)
			ch.State = store.Revoked
			return ch
		}, false},
		"a taint from another trust domain": {store.Tainted, func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			ch.TrustDomain = "simulated.other.example"
			ch = changeBy(t, o.servers[1].ca.checkpoint, ch)
			ch.TrustDomain = td
			return ch
		}, false},
		"an activation by another server": {store.Active, func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			return changeBy(t, o.servers[1].ca.checkpoint, ch)
		}, false},
		"a publication by another server": {store.Published, func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			return changeBy(t, o.servers[1].ca.checkpoint, ch)
		}, false},
		"a retirement by another server": {store.Retired, func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			return changeBy(t, o.servers[1].ca.checkpoint, ch)
		}, false},
		"an unknown state": {"promoted", func(o *office, ch store.AuthorityChange) store.AuthorityChange {
			return changeBy(t, o.servers[1].ca.checkpoint, ch)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, nil)
			second := o.join(true)
			must(t, o.start(o.servers[0]))
			must(t, o.start(second))
			info, err := o.servers[0].ca.Prepare(t.Context(), store.JWT, "")
			must(t, err)
			ch := store.AuthorityChange{TrustDomain: td, Use: store.JWT, ID: info.ID, State: tt.state, Server: "s2", At: o.clock, Reason: "because"}
			must(t, o.shared.ChangeAuthority(t.Context(), tt.spoil(o, ch)))
			must(t, o.servers[0].ca.Reload(t.Context()))
			a := o.servers[0].ca.now.Load().find(store.JWT, info.ID)
			if got := a.said(tt.state) != nil && a.said(tt.state).Reason == "because"; got != tt.want {
				t.Errorf("believed: %t (it is %s)", got, a.state())
			}
			must(t, o.servers[0].ca.maintain(t.Context(), noStop))
			must(t, o.servers[0].ca.Ready())
		})
	}
}

// In its own name a server believes nothing that it did not sign. It goes on with
// what it knew, is not ready, and does not start again.
func TestAForgedChangeInOnesOwnNameIsAnError(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	a := f.x509()
	must(t, f.store.ChangeAuthority(t.Context(), store.AuthorityChange{TrustDomain: td, Use: store.X509, ID: a.row.ID, State: store.Retired, Server: "main", At: f.Now(), Signature: []byte("x")}))
	wantCheck(t, f.ca.maintain(t.Context(), noStop), "authority_signature")
	if f.x509().row.ID != a.row.ID {
		t.Error("it signs with another")
	}
	_, err := f.ca.signsWith()
	must(t, err)
	wantCheck(t, f.ca.Ready(), "authorities_fault")
	f.close(t)
	wantCheck(t, f.open(t), "authority_signature")
}

// Trust that was withdrawn does not come back while the process runs, though the
// row that says so is deleted.
func TestATaintThatIsDeletedStays(t *testing.T) {
	f := newFixture(t)
	must(t, f.open(t))
	a := f.x509()
	_, err := f.ca.Taint(t.Context(), store.X509, a.row.ID, "stolen", "", true)
	must(t, err)
	run(t, writer(t, f), `DELETE FROM authority_changes WHERE state = 'tainted'`)
	must(t, f.ca.maintain(t.Context(), noStop))
	if got := f.ca.now.Load().find(store.X509, a.row.ID); got.state() != store.Tainted || !f.warned("has lost") {
		t.Errorf("it is %s; warnings %q", got.state(), f.ca.Status().Warnings)
	}
}

// An endorsement that the bootstrap root did not make makes no member.
func TestAMemberWhoseEndorsementIsBadIsNone(t *testing.T) {
	other := newFixture(t)
	o := newOffice(t, nil)
	must(t, o.start(o.servers[0]))
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	foreign, err := readCertificate(other.dir + "/" + bootstrapRootFile)
	must(t, err)
	must(t, other.open(t))
	signer, err := other.ring.Get(t.Context(), bootstrapRootKey)
	must(t, err)
	der, err := endorse(o.servers[0].ca.td, "s2", key.Public(), foreign, signer, o.clock)
	must(t, err)
	must(t, o.shared.AddMember(t.Context(), store.Member{TrustDomain: td, Server: "s2", Endorsement: der, JoinedAt: o.clock}))
	f := &fixture{ca: o.servers[0].ca}
	row := ofTheWriterAt(t, f, store.X509, "s2", o.clock)
	row.State = store.Prepared
	row = signedBy(t, key, row)
	must(t, o.shared.AddAuthority(t.Context(), row))
	if believed(t, o.servers[0], row) || len(o.servers[0].ca.Members()) != 1 {
		t.Errorf("members %v", o.servers[0].ca.Members())
	}
	must(t, o.servers[0].ca.maintain(t.Context(), noStop))
	if !f.warned("endorsement") {
		t.Errorf("warnings %q", f.ca.Status().Warnings)
	}
}

func FuzzARowThatWasNotSignedIsNotBelieved(f *testing.F) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	must(f, err)
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	good := store.Authority{TrustDomain: td, Use: store.JWT, ID: "aa", Server: "main", KeyName: "jwt-aa", State: store.Prepared, Public: []byte{1}, NotBefore: at, NotAfter: at, CreatedAt: at}
	message, err := authorityBytes(good)
	sig, err := signRow(key, message, err)
	must(f, err)
	f.Add("x", "main", "jwt-aa", []byte{1}, int64(0), sig)
	f.Add(td, "main", "jwt-aa", []byte{1}, at.UnixMicro(), sig)
	f.Fuzz(func(t *testing.T, domain, server, name string, public []byte, us int64, s []byte) {
		row := good
		row.TrustDomain, row.Server, row.KeyName, row.Public, row.NotAfter = domain, server, name, public, time.UnixMicro(us).UTC()
		message, err := authorityBytes(row)
		same := domain == td && server == "main" && name == "jwt-aa" && string(public) == "\x01" && us == at.UnixMicro() && string(s) == string(sig)
		if ok := checkRow(pub, message, err, s) == nil; ok != same {
			t.Errorf("believed: %t", ok)
		}
	})
}
