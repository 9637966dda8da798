package svid

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// denials is an ordinary list: two SVIDs, their keys, a policy.
func denials() *Denials {
	return &Denials{
		TrustDomain: td, Sequence: 7, IssuedAt: issued, NextUpdate: issued.Add(time.Hour),
		Serials:  [][SerialSize]byte{{0x40, 1}, {0x41}},
		Keys:     [][32]byte{sha256.Sum256([]byte("key 1")), sha256.Sum256([]byte("key 2"))},
		Policies: [][32]byte{sha256.Sum256([]byte("policy of yesterday"))},
	}
}

// denyKeys names the key that signs deny-lists.
func denyKeys(t testing.TB, change ...func(*VerifierKeys)) []byte {
	t.Helper()
	k := &VerifierKeys{
		TrustDomain: td, Sequence: 2, IssuedAt: issued.Add(-time.Hour), NextUpdate: issued.Add(7 * 24 * time.Hour),
		Keys: []VerifierKey{{Key: &testKey(t, "deny-list").PublicKey, NotBefore: issued.Add(-24 * time.Hour), NotAfter: issued.Add(30 * 24 * time.Hour)}},
	}
	for _, f := range change {
		f(k)
	}
	doc, err := SignDenyListKeys(k, testKey(t, "verifier root"))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func denyList(t testing.TB, d *Denials) []byte {
	t.Helper()
	doc, err := d.Sign(testKey(t, "deny-list"), denyKeys(t))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

var sameDomain = cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b })

func TestADenyListReadsBackAsItWas(t *testing.T) {
	want := denials()
	// The order in which it is made does not show.
	made := denials()
	made.Serials = [][SerialSize]byte{{0x41}, {0x40, 1}, {0x41}}
	if bytes.Compare(want.Keys[0][:], want.Keys[1][:]) > 0 {
		want.Keys[0], want.Keys[1] = want.Keys[1], want.Keys[0]
	}
	doc := denyList(t, made)
	t.Logf("%d bytes", len(doc))
	got, err := ParseDenyList(doc, root(t), td, issued)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, sameDomain); diff != "" {
		t.Error(diff)
	}
	if !got.Serial([SerialSize]byte{0x41}) || got.Serial([SerialSize]byte{0x42}) || !got.Policy(want.Policies[0][:]) || got.Policy(nil) || got.Policy(want.Keys[0][:]) {
		t.Error("the list does not find what it holds, or finds what it does not")
	}
}

func TestAnEmptyDenyListIsOne(t *testing.T) {
	d, err := ParseDenyList(denyList(t, &Denials{TrustDomain: td, Sequence: 1, IssuedAt: issued, NextUpdate: issued.Add(time.Hour)}), root(t), td, issued)
	if err != nil || len(d.Serials)+len(d.Keys)+len(d.Policies) != 0 {
		t.Fatalf("%+v, %v", d, err)
	}
}

// forged signs a payload that an honest issuer would not.
func forged(t *testing.T, change func(*denyListDocument)) []byte {
	t.Helper()
	s, err := parseSign1(denyList(t, denials()), typeDenyList)
	if err != nil {
		t.Fatal(err)
	}
	var d denyListDocument
	if err := decode(s.payload, &d); err != nil {
		t.Fatal(err)
	}
	change(&d)
	payload, err := encMode.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := signSign1(testKey(t, "deny-list"), typeDenyList, payload)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestADenyListThatDoesNotHoldIsRefused(t *testing.T) {
	good := denyList(t, denials())
	signAs := func(key string, typ any, payload []byte) []byte {
		doc, err := signSign1(testKey(t, key), typ, payload)
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	s, err := parseSign1(good, typeDenyList)
	if err != nil {
		t.Fatal(err)
	}
	with := func(f func(*VerifierKeys)) []byte {
		return forged(t, func(d *denyListDocument) { d.SigningKeys = denyKeys(t, f) })
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	keysByStranger, err := SignDenyListKeys(&VerifierKeys{
		TrustDomain: td, Sequence: 2, IssuedAt: issued.Add(-time.Hour), NextUpdate: issued.Add(time.Hour),
		Keys: []VerifierKey{{Key: &testKey(t, "deny-list").PublicKey, NotBefore: issued.Add(-time.Hour), NotAfter: issued.Add(time.Hour)}},
	}, testKey(t, "stranger"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := spiffeid.RequireTrustDomainFromString("other.example.org")
	other := denials()
	other.TrustDomain = elsewhere

	for _, tc := range []struct {
		name  string
		doc   []byte
		at    time.Time
		kind  attest.Kind
		check string
	}{
		{"too large", make([]byte, MaxDenyListSize+1), issued, attest.Malformed, "deny_list_size"},
		{"not COSE", []byte{0x80}, issued, attest.Malformed, "cose_tag"},
		{"a verifier-keys document", signed(t, verifierKeys(t)), issued, attest.Malformed, "cose_type"},
		{"a payload that is no list", signAs("deny-list", typeDenyList, []byte{0x80}), issued, attest.Malformed, "deny_list_structure"},
		{"keys under another root", forged(t, func(d *denyListDocument) { d.SigningKeys = keysByStranger }), issued, attest.Untrusted, "verifier_root"},
		{"the verifier keys in their place", forged(t, func(d *denyListDocument) { d.SigningKeys = signed(t, verifierKeys(t)) }), issued, attest.Malformed, "cose_type"},
		{"keys that have expired", with(func(k *VerifierKeys) { k.NextUpdate = issued }), issued, attest.Stale, "deny_list_keys_expired"},
		{"keys of the future", with(func(k *VerifierKeys) { k.IssuedAt = issued.Add(time.Hour) }), issued, attest.Stale, "deny_list_keys_future"},
		{"a key that is not named", signAs("stranger", typeDenyList, s.payload), issued, attest.Untrusted, "deny_list_key"},
		{"signed by the verifier key", signAs("verifier", typeDenyList, s.payload), issued, attest.Untrusted, "deny_list_key"},
		{"another signature", flipped, issued, attest.Untrusted, "deny_list_signature"},
		{"a list of another trust domain", denyList(t, other), issued, attest.Untrusted, "deny_list_domain"},
		{"keys of another trust domain", with(func(k *VerifierKeys) { k.TrustDomain = elsewhere }), issued, attest.Untrusted, "deny_list_domain"},
		{"a key that is not in use yet", with(func(k *VerifierKeys) { k.Keys[0].NotBefore = issued.Add(time.Second) }), issued, attest.Untrusted, "deny_list_window"},
		{"a key that is no longer in use", with(func(k *VerifierKeys) { k.Keys[0].NotAfter = issued }), issued, attest.Untrusted, "deny_list_window"},
		{"a list of the future", good, issued.Add(-MaxClockSkew - time.Second), attest.Stale, "deny_list_future"},
		{"a list that has expired", good, issued.Add(time.Hour), attest.Stale, "deny_list_expired"},
		{"a trust domain with scheme", forged(t, func(d *denyListDocument) { d.TrustDomain = "spiffe://" + d.TrustDomain }), issued, attest.Malformed, "deny_list_content"},
		{"no sequence", forged(t, func(d *denyListDocument) { d.Sequence = 0 }), issued, attest.Malformed, "deny_list_content"},
		{"no time", forged(t, func(d *denyListDocument) { d.IssuedAt = 0 }), issued, attest.Malformed, "deny_list_content"},
		{"an update before the issue", forged(t, func(d *denyListDocument) { d.NextUpdate = d.IssuedAt }), issued, attest.Malformed, "deny_list_content"},
		{"half a serial", forged(t, func(d *denyListDocument) { d.Serials = d.Serials[1:] }), issued, attest.Malformed, "deny_list_content"},
		{"a serial twice", forged(t, func(d *denyListDocument) { copy(d.Serials[SerialSize:], d.Serials[:SerialSize]) }), issued, attest.Malformed, "deny_list_content"},
		{"keys that fall", forged(t, func(d *denyListDocument) { d.Keys = append(bytes.Clone(d.Keys[32:]), d.Keys[:32]...) }), issued, attest.Malformed, "deny_list_content"},
		{"half a policy", forged(t, func(d *denyListDocument) { d.Policies = d.Policies[:31] }), issued, attest.Malformed, "deny_list_content"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := ParseDenyList(tc.doc, root(t), td, tc.at)
			wantError(t, err, tc.kind, tc.check)
			if d != nil {
				t.Error("an error, and a list")
			}
		})
	}
	if _, err := ParseDenyList(good, root(t), td, issued.Add(-MaxClockSkew)); err != nil {
		t.Errorf("within the allowance for clocks: %v", err)
	}
	if _, err := ParseDenyList(good, root(t), td, issued.Add(time.Hour-time.Second)); err != nil {
		t.Errorf("to the last second: %v", err)
	}
}

func TestNoBitOfADenyListCanBeFlipped(t *testing.T) {
	doc := denyList(t, denials())
	for bit := range 8 * len(doc) {
		flipped := bytes.Clone(doc)
		flipped[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseDenyList(flipped, root(t), td, issued); err == nil {
			t.Fatalf("bit %d can be flipped", bit)
		}
	}
}

func TestTheKeysOfDenyListsAreNotVerifierKeys(t *testing.T) {
	_, err := ParseVerifierKeys(denyKeys(t), root(t), issued)
	wantError(t, err, attest.Malformed, "cose_type")
	_, err = ParseDenyListKeys(signed(t, verifierKeys(t)), root(t), issued)
	wantError(t, err, attest.Malformed, "cose_type")
	_, err = ParseDenyListKeys(make([]byte, MaxVerifierKeysSize+1), root(t), issued)
	wantError(t, err, attest.Malformed, "deny_list_keys_size")
}

func TestADenyListThatHasNoRoomSaysHowManyItLeavesOut(t *testing.T) {
	d := denials()
	d.Serials, d.Keys = nil, nil
	for i := range MaxDenyListSize / SerialSize {
		var s [SerialSize]byte
		s[0], s[1], s[2] = 0x40|byte(i>>16), byte(i>>8), byte(i)
		d.Serials = append(d.Serials, s)
		d.Keys = append(d.Keys, sha256.Sum256(s[:]))
	}
	got, err := ParseDenyList(denyList(t, d), root(t), td, issued)
	if err != nil {
		t.Fatal(err)
	}
	if got.Omitted == 0 || uint64(len(got.Serials))+got.Omitted != uint64(len(d.Serials)) || len(got.Keys) != 0 || len(got.Policies) != 1 {
		t.Errorf("%d serials, %d keys, %d omitted", len(got.Serials), len(got.Keys), got.Omitted)
	}
	l := follower(t)
	if err := l.Update(denyList(t, d), issued); err != nil {
		t.Fatal(err)
	}
	_, err = l.Denials(issued)
	wantError(t, err, attest.Stale, "deny_list_incomplete")
}

func TestADenyListThatWouldBeRefusedIsNotSigned(t *testing.T) {
	d := denials()
	d.Sequence = 0
	_, err := d.Sign(testKey(t, "deny-list"), denyKeys(t))
	wantError(t, err, attest.Internal, "deny_list_encode")
	d = denials()
	for i := range denyListRoom/64 + 1 {
		d.Policies = append(d.Policies, sha256.Sum256([]byte(strconv.Itoa(i))))
	}
	_, err = d.Sign(testKey(t, "deny-list"), denyKeys(t))
	wantError(t, err, attest.Internal, "deny_list_size")
}

func follower(t testing.TB) *DenyList {
	t.Helper()
	l, err := NewDenyList(td, root(t))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAFollowerNeverGoesBack(t *testing.T) {
	l := follower(t)
	_, err := l.Denials(issued)
	wantError(t, err, attest.Unavailable, "deny_list")
	first, second := denials(), denials()
	second.Sequence++
	other := denials()
	other.Sequence, other.Serials = second.Sequence, nil
	doc := denyList(t, second)
	if err := l.Update(doc, issued); err != nil {
		t.Fatal(err)
	}
	if err := l.Update(doc, issued); err != nil {
		t.Errorf("the same again: %v", err)
	}
	wantError(t, l.Update(denyList(t, first), issued), attest.Stale, "deny_list_rollback")
	wantError(t, l.Update(denyList(t, other), issued), attest.Stale, "deny_list_rollback")
	d, err := l.Denials(issued)
	if err != nil || d.Sequence != second.Sequence || !bytes.Equal(l.Document(), doc) {
		t.Errorf("%+v, %v", d, err)
	}
	_, err = l.Denials(issued.Add(time.Hour))
	wantError(t, err, attest.Stale, "deny_list_expired")
	if _, err := NewDenyList(spiffeid.TrustDomain{}, root(t)); err == nil {
		t.Error("a follower of no trust domain")
	}
}

func TestAListIsFollowedByURL(t *testing.T) {
	var fetched, unchanged int
	doc := denyList(t, denials())
	serve := doc
	answer := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer != http.StatusOK {
			w.WriteHeader(answer)
			return
		}
		tag := strconv.Quote(strconv.Itoa(len(serve)))
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			unchanged++
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fetched++
		_, _ = w.Write(serve)
	}))
	defer srv.Close()
	l := follower(t)
	ctx := t.Context()
	for range 3 {
		if err := l.UpdateURL(ctx, srv.Client(), srv.URL, issued); err != nil {
			t.Fatal(err)
		}
	}
	if fetched != 1 || unchanged != 2 {
		t.Errorf("fetched %d times, %d times unchanged", fetched, unchanged)
	}
	serve = make([]byte, MaxDenyListSize+10)
	wantError(t, l.UpdateURL(ctx, nil, srv.URL, issued), attest.Malformed, "deny_list_size")
	answer = http.StatusNotFound
	wantError(t, l.UpdateURL(ctx, nil, srv.URL, issued), attest.Unavailable, "deny_list_fetch")
	for _, bad := range []string{"", "ftp://example.org/x", "http://example.org/deny-list", "https://", "://"} {
		wantError(t, l.UpdateURL(ctx, nil, bad, issued), attest.Malformed, "deny_list_url")
	}
	if d, err := l.Denials(issued); err != nil || d.Sequence != 7 {
		t.Errorf("what was held is lost: %v, %v", d, err)
	}
}

func TestRunFollowsAFileUntilItIsTold(t *testing.T) {
	doc := denyList(t, denials())
	path := filepath.Join(t.TempDir(), "deny-list.cose")
	synctest.Test(t, func(t *testing.T) {
		l := follower(t)
		start := time.Now()
		at := func() time.Time { return issued.Add(time.Since(start)) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx, DenyListFrom{File: path, Every: time.Minute, Now: at}) }()
		synctest.Wait()
		if l.Document() != nil {
			t.Error("a list from nowhere")
		}
		if err := os.WriteFile(path, doc, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !bytes.Equal(l.Document(), doc) {
			t.Error("the list was not read")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	l := follower(t)
	wantError(t, l.Run(t.Context(), DenyListFrom{}), attest.Internal, "deny_list_source")
	wantError(t, l.Run(t.Context(), DenyListFrom{File: "x", URL: "y"}), attest.Internal, "deny_list_source")
	wantError(t, l.Run(t.Context(), DenyListFrom{URL: "http://example.org/"}), attest.Malformed, "deny_list_url")
	wantError(t, l.UpdateFile(path+".gone", issued), attest.Unavailable, "deny_list_file")
}

// The list is told on by the agent, or whatever else has its bytes.
func TestRunFollowsWhoeverHasTheBytes(t *testing.T) {
	l := follower(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := l.Run(ctx, DenyListFrom{Now: func() time.Time { return issued }, Get: func(context.Context) ([]byte, error) {
		cancel()
		return denyList(t, denials()), nil
	}})
	if err != nil || l.Document() == nil {
		t.Errorf("%v, %d bytes", err, len(l.Document()))
	}
}

// denyVector is testdata/deny-list.json: what is in testdata/deny-list.cose.
type denyVector struct {
	Description string    `json:"description"`
	VerifyAt    time.Time `json:"verify_at"`
	TrustDomain string    `json:"trust_domain"`
	Sequence    uint64    `json:"sequence"`
	Serials     []string  `json:"serials"`
	Keys        []string  `json:"keys"`
	Policies    []string  `json:"policies"`
}

func TestTheVectorOfADenyList(t *testing.T) {
	doc := denyList(t, denials())
	path := filepath.Join("testdata", "deny-list")
	d, err := ParseDenyList(doc, root(t), td, issued)
	if err != nil {
		t.Fatal(err)
	}
	want := denyVector{Description: "two SVIDs by serial, two keys, a policy; pinned: verifier-root.pem", VerifyAt: issued, TrustDomain: d.TrustDomain.Name(), Sequence: d.Sequence}
	for i := range d.Serials {
		want.Serials = append(want.Serials, hex.EncodeToString(d.Serials[i][:]))
	}
	for i := range d.Keys {
		want.Keys = append(want.Keys, hex.EncodeToString(d.Keys[i][:]))
	}
	for i := range d.Policies {
		want.Policies = append(want.Policies, hex.EncodeToString(d.Policies[i][:]))
	}
	text, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	if *update {
		for name, b := range map[string][]byte{".cose": doc, ".json": text} {
			if err := os.WriteFile(path+name, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, b := range map[string][]byte{".cose": doc, ".json": text} {
		on, err := os.ReadFile(path + name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(on, b) {
			t.Errorf("%s%s is not what this code writes: go test ./svid -update", path, name)
		}
	}
	pemBytes, err := os.ReadFile(filepath.Join("testdata", "verifier-root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := ParseVerifierRoot(pemBytes)
	if err != nil || !pinned.Equal(root(t)) {
		t.Errorf("verifier-root.pem is another root: %v", err)
	}
}

func FuzzDenyList(f *testing.F) {
	doc := denyList(f, denials())
	s, err := parseSign1(doc, typeDenyList)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.payload, doc)
	f.Fuzz(func(t *testing.T, payload, doc []byte) {
		d, keys, err := decodeDenyList(payload)
		if (d == nil) == (err == nil) {
			t.Fatal("a list and an error, or neither")
		}
		if err == nil && len(keys) < MaxVerifierKeysSize && d.Omitted == 0 && len(payload) < denyListRoom/2 {
			out, err := d.Sign(testKey(t, "deny-list"), keys)
			if err != nil {
				t.Fatalf("what was read cannot be written: %v", err)
			}
			again, err := parseSign1(out, typeDenyList)
			if err != nil {
				t.Fatal(err)
			}
			// Claims that the format does not know are left out; the rest is one spelling.
			if len(again.payload) > len(payload) {
				t.Fatal("written longer than read")
			}
			if back, _, err := decodeDenyList(again.payload); err != nil || cmp.Diff(d, back, sameDomain) != "" {
				t.Fatalf("it does not read back: %v", err)
			}
		}
		d, err = ParseDenyList(doc, root(t), td, issued)
		if (d == nil) == (err == nil) {
			t.Fatal("a list and an error, or neither")
		}
		if err != nil && (attest.CheckOf(err) == "" || strings.ContainsRune(err.Error(), 0)) {
			t.Fatalf("an error without a check: %v", err)
		}
	})
}
