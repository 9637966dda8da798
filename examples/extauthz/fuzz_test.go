package main

import (
	"encoding/pem"
	"log/slog"
	"net/url"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// FuzzCheck asks about what Envoy passes on of a stranger, whose authority has the name
// of ours and is not.
func FuzzCheck(f *testing.F) {
	theirs, ours := svidtest.New(f, "example.test"), svidtest.New(f, "example.test")
	cert := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: theirs.Mint(f, "/orders").Certificates[0].Raw})))
	f.Add(cert, `Hash=x;Chain="`+cert+`"`, "")
	f.Add("", `Cert="`+cert+`"`, "Bearer x")
	f.Add("", "", "Bearer "+theirs.MintJWT(f, "/orders", "x"))
	a := &Authorizer{
		Source: ours.Source(), Tokens: ours.JWTBundle(f), Audience: "x",
		Require: []svid.Requirement{svid.MemberOf(ours.TrustDomain)}, Log: slog.New(slog.DiscardHandler),
	}
	f.Fuzz(func(t *testing.T, cert, forwarded, authorization string) {
		r := &authv3.AttributeContext{
			Source: &authv3.AttributeContext_Peer{Certificate: cert},
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Headers: map[string]string{"x-forwarded-client-cert": forwarded, "authorization": authorization},
			}},
		}
		if _, err := a.admit(r); err == nil || attest.KindOf(err) == attest.Internal {
			t.Fatal(err)
		}
		if res, err := a.Check(t.Context(), &authv3.CheckRequest{Attributes: r}); err != nil || res.GetOkResponse() != nil {
			t.Fatalf("%v %v", res, err)
		}
	})
}
