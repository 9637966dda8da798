package agent_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// A program as go-spiffe's own examples write them: it knows nothing of Assay, and
// finds its agent by SPIFFE_ENDPOINT_SOCKET. TestTheClientKnowsGoSPIFFEAlone looks
// after this file's imports.
type spiffeProgram struct {
	x509    *workloadapi.X509Source
	jwt     *workloadapi.JWTSource
	bundles *workloadapi.BundleSource
	grpc    *grpc.Server
	raw     net.Listener // spiffetls
	web     *http.Server
	grpcAt  string
	webAt   string
	kept    *grpc.ClientConn // a connection that outlives renewals
}

const programAudience = "reports"

func startProgram(ctx context.Context) (p *spiffeProgram, err error) {
	p = &spiffeProgram{}
	if p.x509, err = workloadapi.NewX509Source(ctx); err != nil {
		return nil, err
	}
	if p.jwt, err = workloadapi.NewJWTSource(ctx); err != nil {
		return nil, err
	}
	if p.bundles, err = workloadapi.NewBundleSource(ctx); err != nil {
		return nil, err
	}
	// spiffegrpc.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.grpcAt = l.Addr().String()
	p.grpc = grpc.NewServer(grpc.Creds(grpccredentials.MTLSServerCredentials(p.x509, p.x509, tlsconfig.AuthorizeAny())))
	healthpb.RegisterHealthServer(p.grpc, health.NewServer())
	go func() { _ = p.grpc.Serve(l) }()
	if p.kept, err = p.dialGRPC(); err != nil {
		return nil, err
	}
	// spiffetls, with the peers' bundles from a source of their own.
	if p.raw, err = spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0", spiffetls.MTLSServerWithSourceOptions(tlsconfig.AuthorizeAny())); err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := p.raw.Accept()
			if err != nil {
				return
			}
			go func() { defer func() { _ = c.Close() }(); _, _ = io.Copy(c, io.LimitReader(c, 5)) }()
		}
	}()
	// HTTP over TLS, where a token says who calls.
	wl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.webAt = wl.Addr().String()
	p.web = &http.Server{Handler: http.HandlerFunc(p.who), TLSConfig: tlsconfig.TLSServerConfig(p.x509), ReadHeaderTimeout: time.Second}
	go func() { _ = p.web.ServeTLS(wl, "", "") }()
	return p, nil
}

func (p *spiffeProgram) close() error {
	p.grpc.Stop()
	return errors.Join(p.kept.Close(), p.raw.Close(), p.web.Close(), p.x509.Close(), p.jwt.Close(), p.bundles.Close())
}

// who answers with the name in the caller's token.
func (p *spiffeProgram) who(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	v, err := jwtsvid.ParseAndValidate(token, p.bundles, []string{programAudience})
	if err != nil || !ok {
		http.Error(w, fmt.Sprint(err), http.StatusUnauthorized)
		return
	}
	_, _ = io.WriteString(w, v.ID.String())
}

func (p *spiffeProgram) dialGRPC() (*grpc.ClientConn, error) {
	return grpc.NewClient(p.grpcAt, grpc.WithTransportCredentials(grpccredentials.MTLSClientCredentials(p.x509, p.x509, tlsconfig.AuthorizeAny())))
}

// calls are what the program does all the time; each must succeed, always.
func (p *spiffeProgram) calls() map[string]func(context.Context) error {
	check := func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	return map[string]func(context.Context) error{
		"spiffegrpc on a connection that is kept": func(ctx context.Context) error { return check(ctx, p.kept) },
		"spiffegrpc on a new connection": func(ctx context.Context) error {
			c, err := p.dialGRPC()
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			return check(ctx, c)
		},
		"spiffetls": func(ctx context.Context) error {
			c, err := spiffetls.DialWithMode(ctx, "tcp", p.raw.Addr().String(), spiffetls.MTLSClientWithRawConfig(tlsconfig.AuthorizeAny(), p.x509, p.bundles))
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if _, err := io.WriteString(c, "hello"); err != nil {
				return err
			}
			_, err = io.ReadFull(c, make([]byte, 5))
			return err
		},
		"HTTP with a JWT-SVID": func(ctx context.Context) error {
			v, err := p.jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: programAudience})
			if err != nil {
				return err
			}
			tr := &http.Transport{TLSClientConfig: tlsconfig.TLSClientConfig(p.bundles, tlsconfig.AuthorizeAny()), DisableKeepAlives: true}
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.webAt, http.NoBody)
			if err != nil {
				return err
			}
			r.Header.Set("Authorization", "Bearer "+v.Marshal())
			out, err := tr.RoundTrip(r)
			if err != nil {
				return err
			}
			defer func() { _ = out.Body.Close() }()
			body, err := io.ReadAll(out.Body)
			if err == nil && (out.StatusCode != http.StatusOK || string(body) != v.ID.String()) {
				err = fmt.Errorf("%s: %s", out.Status, body)
			}
			return err
		},
		"one-shot fetches": func(ctx context.Context) error {
			c, err := workloadapi.New(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			x, err := c.FetchX509Context(ctx)
			if err != nil {
				return err
			}
			if _, err := c.FetchX509Bundles(ctx); err != nil {
				return err
			}
			if _, err := c.FetchJWTBundles(ctx); err != nil {
				return err
			}
			v, err := c.FetchJWTSVID(ctx, jwtsvid.Params{Audience: programAudience, Subject: x.DefaultSVID().ID})
			if err != nil {
				return err
			}
			_, err = c.ValidateJWTSVID(ctx, v.Marshal(), programAudience)
			return err
		},
	}
}

// serial is that of the SVID that the program shows now.
func (p *spiffeProgram) serial() (string, error) {
	v, err := p.x509.GetX509SVID()
	if err != nil {
		return "", err
	}
	return v.Certificates[0].SerialNumber.String(), nil
}

// trusts says what the bundle source has of a trust domain.
func (p *spiffeProgram) trusts(td spiffeid.TrustDomain) ([]*x509.Certificate, int) {
	var x x509bundle.Source = p.bundles
	var j jwtbundle.Source = p.bundles
	a, err := x.GetX509BundleForTrustDomain(td)
	if err != nil {
		return nil, 0
	}
	b, err := j.GetJWTBundleForTrustDomain(td)
	if err != nil {
		return a.X509Authorities(), 0
	}
	return a.X509Authorities(), len(b.JWTAuthorities())
}
