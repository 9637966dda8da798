package svid_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidgrpc"
	"github.com/assay-project/assay/svid/svidtest"
)

// A relying party pins the verifier root, reads the verifier-keys document from
// wherever it was put, and asks for more than a name.
func Example() {
	ctx := context.Background()
	td := spiffeid.RequireTrustDomainFromString("attested.example.org")

	pem, err := os.ReadFile("verifier-root.pem") // pinned: ships with the program
	if err != nil {
		log.Fatal(err)
	}
	root, err := svid.ParseVerifierRoot(pem)
	if err != nil {
		log.Fatal(err)
	}
	keys, err := svid.NewKeyring(td, root)
	if err != nil {
		log.Fatal(err)
	}
	if err := keys.UpdateFile("verifier-keys", time.Now()); err != nil {
		log.Fatal(err)
	}

	own, err := workloadapi.NewX509Source(ctx) // our SVID and the bundle, from any SPIFFE agent
	if err != nil {
		log.Fatal(err)
	}
	src := svid.NewLiveSource(own, keys)

	gate := &svidgrpc.Gate{Gate: svid.Gate{Source: src, Require: []svid.Requirement{
		svid.MemberOf(td),
		svid.Owned(), // who launched it was proven: anybody can boot your image
		svid.Policy("prod"),
		svid.MinTier(svid.Affirming),
		svid.MaxAge(2 * time.Hour),
	}}}
	server := grpc.NewServer(gate.ServerOptions(own)...)
	defer server.Stop()
}

func ExampleVerify() {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	t := exampleT{}
	authority := svidtest.NewAt(t, "example.test", func() time.Time { return at })
	peer := authority.Mint(t, "/orders", svidtest.PCR(0, svidtest.Digest("release 41")), svidtest.Age(3*time.Minute))

	attested, err := svid.Verify(peer.Certificates, authority.Source(), at, svid.PCR(0, svidtest.Digest("release 41")))
	fmt.Println(attested.ID, attested.Result.Status, attested.Result.Policy, err)

	_, err = svid.Verify(peer.Certificates, authority.Source(), at, svid.MaxAge(time.Minute))
	fmt.Println(attest.KindOf(err), attest.CheckOf(err))
	fmt.Println(err)
	// Output:
	// spiffe://example.test/orders affirming test@1 <nil>
	// stale max_age
	// max_age: the evidence is too old (expected 1m0s or less, got 3m0s)
}

// A handler that asks for more than the connection did, for each request. Most put a
// svidhttp.Gate there.
func ExampleFromConnectionState() {
	var src svid.Source // from NewSource
	td := spiffeid.RequireTrustDomainFromString("attested.example.org")
	http.HandleFunc("/keys", func(w http.ResponseWriter, req *http.Request) {
		if req.TLS == nil {
			http.Error(w, "https is wanted", http.StatusForbidden)
			return
		}
		peer, err := svid.FromConnectionState(*req.TLS, src, time.Now(), svid.MemberOf(td), svid.Owned(), svid.Policy("prod"))
		if err != nil {
			log.Print(err) // what is wanted is not the client's to know
			http.Error(w, "an attested SVID is wanted", http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintln(w, peer.ID, peer.Result.Measurements["pcr0"])
	})
}

// ExampleNewSource trusts what two files hold.
func ExampleNewSource() {
	td := spiffeid.RequireTrustDomainFromString("attested.example.org")
	bundle, err := x509bundle.Load(td, "testdata/bundle-hardware.pem")
	if err != nil {
		log.Fatal(err)
	}
	pem, err := os.ReadFile("testdata/verifier-root.pem")
	if err != nil {
		log.Fatal(err)
	}
	root, err := svid.ParseVerifierRoot(pem)
	if err != nil {
		log.Fatal(err)
	}
	doc, err := os.ReadFile("testdata/verifier-keys-hardware.cose")
	if err != nil {
		log.Fatal(err)
	}
	keys, err := svid.ParseVerifierKeys(doc, root, time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	if err != nil {
		log.Fatal(err)
	}
	src := svid.NewSource(bundle, keys)
	got, err := src.VerifierKeys(td)
	fmt.Println(got.TrustDomain, len(got.Keys), err)
	// Output: attested.example.org 2 <nil>
}

// What ClientTLS yields is an ordinary *tls.Config.
func ExampleClientTLS() {
	t := exampleT{}
	authority := svidtest.New(t, "simulated.example.test")
	own := authority.Mint(t, "/inventory")
	cfg := svid.ClientTLS(own, authority.Source(),
		svid.ID(spiffeid.RequireFromString("spiffe://simulated.example.test/orders")),
		svid.Simulated()) // never in production
	fmt.Println(tls.VersionName(cfg.MinVersion))
	// Output: TLS 1.3
}
