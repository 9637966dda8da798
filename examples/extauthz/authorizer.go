package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
)

// Authorizer is Envoy's external authorization service.
type Authorizer struct {
	authv3.UnimplementedAuthorizationServer

	Source   svid.Source      // what certificates are checked with
	Tokens   jwtbundle.Source // what JWT-SVIDs are checked with; nil takes none
	Audience string
	Require  []svid.Requirement // of every route
	Log      *slog.Logger
	Now      func() time.Time // nil is time.Now
}

// Check implements ext_authz. What is wanted is in the log, and not in the answer.
func (a *Authorizer) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	who, err := a.admit(r.GetAttributes())
	if err != nil {
		a.Log.WarnContext(ctx, "a request is refused", "kind", attest.KindOf(err).String(), "check", attest.CheckOf(err), "error", err.Error(),
			"path", path(r), "peer", r.GetAttributes().GetSource().GetAddress().GetSocketAddress().GetAddress())
		return denied(err), nil
	}
	return allowed(who), nil
}

// admit checks the peer of Envoy's connection. As everywhere, a certificate that is
// shown counts alone: a token does not make it good.
func (a *Authorizer) admit(r *authv3.AttributeContext) (*svid.Attested, error) {
	now := time.Now()
	if a.Now != nil {
		now = a.Now()
	}
	require, err := a.required(r.GetContextExtensions())
	if err != nil {
		return nil, &attest.Error{Kind: attest.Internal, Check: "route", Err: err, Hint: "see context_extensions in Envoy's configuration"}
	}
	chain, err := peerChain(r)
	if err != nil {
		return nil, &attest.Error{Kind: attest.Malformed, Check: "peer_certificate", Err: err}
	}
	if chain != nil {
		return svid.Verify(chain, a.Source, now, require...)
	}
	g := svid.Gate{Tokens: a.Tokens, Audience: a.Audience, Require: require, Now: func() time.Time { return now }}
	var authorization []string
	if h, ok := r.GetRequest().GetHttp().GetHeaders()["authorization"]; ok {
		authorization = []string{h}
	}
	return g.Admit(nil, authorization)
}

// required is what the route demands, over and above what every route does. It is
// written in Envoy's configuration, as the route's context_extensions: a client
// cannot set them. A key that is not known refuses everybody, since it demands what
// this server would not check.
//
//	min-tier       affirming, warning, …
//	max-age        a duration, as in 2h
//	policy         a name, or name@revision
//	owned          true
//	pcr0 …         a published measurement, in hex, by its name; | between several
//	attribute.KEY  the value that the policy gave
func (a *Authorizer) required(route map[string]string) ([]svid.Requirement, error) {
	out := slices.Clone(a.Require)
	for _, key := range slices.Sorted(maps.Keys(route)) {
		value := route[key]
		switch attribute, is := strings.CutPrefix(key, "attribute."); {
		case is && attribute != "":
			out = append(out, svid.Attribute(attribute, value))
		case key == "min-tier":
			var t svid.Tier
			if err := t.UnmarshalText([]byte(value)); err != nil {
				return nil, fmt.Errorf("min-tier: %w", err)
			}
			out = append(out, svid.MinTier(t))
		case key == "max-age":
			d, err := time.ParseDuration(value)
			if err != nil || d <= 0 {
				return nil, fmt.Errorf("max-age %q: want a duration, as in 2h", value)
			}
			out = append(out, svid.MaxAge(d))
		case key == "policy":
			out = append(out, svid.Policy(value))
		case key == "owned" && value == "true":
			out = append(out, svid.Owned())
		case key == "measurement" || strings.HasPrefix(key, "pcr"):
			var values [][]byte
			for _, s := range strings.Split(value, "|") {
				v, err := hex.DecodeString(s)
				if err != nil || len(v) == 0 {
					return nil, fmt.Errorf("%s: %q is not a digest in hex", key, s)
				}
				values = append(values, v)
			}
			out = append(out, svid.Measurement(key, values...))
		default:
			return nil, fmt.Errorf("%s=%q is nothing that can be demanded", key, value)
		}
	}
	return out, nil
}

// The headers that tell the program behind Envoy who asks.
const (
	headerID     = "x-assay-id"
	headerTEE    = "x-assay-tee"
	headerStatus = "x-assay-status"
	headerPolicy = "x-assay-policy"
)

// allowed overwrites what the client may have sent under these names.
func allowed(who *svid.Attested) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{}
	for _, h := range [][2]string{
		{headerID, who.ID.String()}, {headerTEE, string(who.Result.Platform)}, {headerStatus, who.Result.Status.String()}, {headerPolicy, who.Result.Policy},
	} {
		ok.Headers = append(ok.Headers, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: h[0], Value: h[1]},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return &authv3.CheckResponse{Status: &status.Status{Code: int32(codes.OK)}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}
}

// denied is the answer to the client, by the kind of the error.
func denied(err error) *authv3.CheckResponse {
	code, http, body := codes.Internal, typev3.StatusCode_InternalServerError, "the SVID cannot be checked"
	switch attest.KindOf(err) {
	case attest.Malformed, attest.Untrusted, attest.Stale:
		code, http, body = codes.Unauthenticated, typev3.StatusCode_Unauthorized, "an attested SVID is wanted"
	case attest.Denied:
		code, http, body = codes.PermissionDenied, typev3.StatusCode_Forbidden, "the SVID does not meet the requirements"
	case attest.Unavailable:
		code, http, body = codes.Unavailable, typev3.StatusCode_ServiceUnavailable, "the SVID cannot be checked now"
	case attest.Internal:
	}
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: int32(code), Message: body},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: http}, Body: body + "\n"}},
	}
}

// path is what is logged of it: a stranger wrote it.
func path(r *authv3.CheckRequest) string {
	p, _, _ := strings.Cut(r.GetAttributes().GetRequest().GetHttp().GetPath(), "?")
	if len(p) > 160 {
		p = strings.ToValidUTF8(p[:160], "") + "…"
	}
	return p
}
