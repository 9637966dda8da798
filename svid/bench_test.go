package svid_test

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// BenchmarkVerify verifies an attested X509-SVID with requirements, as a ratio to
// what go-spiffe takes for the name alone.
//
//	known-chain  the peer was seen before: what each request of it costs
//	new-chain    it was not: two signatures, where go-spiffe has one to verify;
//	             2 is the floor of this ratio, less what go-spiffe spends beside
func BenchmarkVerify(b *testing.B) {
	a := authority(b)
	chain, bundle := a.Mint(b, "/orders").Certificates, a.Bundle()
	plain := func() {
		if _, _, err := x509svid.Verify(chain, bundle, x509svid.WithTime(now)); err != nil {
			b.Fatal(err)
		}
	}
	verify := func(src svid.Source) {
		if _, err := svid.Verify(chain, src, now, demands()...); err != nil {
			b.Fatal(err)
		}
	}
	src := a.Source()
	verify(src)
	b.Run("known-chain", func(b *testing.B) { paired(b, "us", time.Microsecond, plain, func() { verify(src) }) })
	b.Run("new-chain", func(b *testing.B) { paired(b, "us", time.Microsecond, plain, func() { verify(a.Source()) }) })
}

func demands() []svid.Requirement {
	return []svid.Requirement{svid.PCR(0, svidtest.Digest("image")), svid.MinTier(svid.Affirming), svid.MaxAge(time.Hour)}
}

// BenchmarkVerifyJWT verifies an attested JWT-SVID with requirements, as a ratio to
// jwtsvid.ParseAndValidate of the same token.
func BenchmarkVerifyJWT(b *testing.B) {
	a := svidtest.New(b, "example.test") // go-spiffe's validation goes by the wall clock
	token, bundle := a.MintJWT(b, "/orders", "inventory"), a.JWTBundle(b)
	paired(b, "us", time.Microsecond, func() {
		if _, err := jwtsvid.ParseAndValidate(token, bundle, []string{"inventory"}); err != nil {
			b.Fatal(err)
		}
	}, func() {
		if _, err := svid.VerifyJWT(token, bundle, "inventory", time.Now(), demands()...); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkHandshake makes mutual TLS 1.3 handshakes over the loopback, both ends in
// this process, each end demanding an attested SVID, as a ratio to the same with
// go-spiffe's configurations.
//
//	known-chain  both ends saw the other before
//	new-chain    neither did
func BenchmarkHandshake(b *testing.B) {
	a := svidtest.New(b, "example.test")
	client, server, bundle := a.Mint(b, "/orders"), a.Mint(b, "/inventory"), a.Bundle()
	plainClient := tlsconfig.MTLSClientConfig(client, bundle, tlsconfig.AuthorizeID(server.ID))
	plainServer := tlsconfig.MTLSServerConfig(server, bundle, tlsconfig.AuthorizeID(client.ID))
	plainClient.MinVersion, plainServer.MinVersion = tls.VersionTLS13, tls.VersionTLS13
	plain := func() { handshake(b, plainClient, plainServer) }
	ours := func(src svid.Source) {
		handshake(b, svid.ClientTLS(client, src, append(demands(), svid.ID(server.ID))...), svid.ServerTLS(server, src, append(demands(), svid.ID(client.ID))...))
	}
	known := a.Source()
	b.Run("known-chain", func(b *testing.B) { paired(b, "handshakes/s", -time.Second, plain, func() { ours(known) }) })
	b.Run("new-chain", func(b *testing.B) { paired(b, "handshakes/s", -time.Second, plain, func() { ours(a.Source()) }) })
}

// handshake opens one connection and closes it again.
func handshake(b *testing.B, client, server *tls.Config) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		s := tls.Server(conn, server)
		err = s.Handshake()
		_ = s.Close()
		done <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	c := tls.Client(conn, client)
	if err := c.Handshake(); err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	_ = conn.Close()
}

// paired runs both in turn, and reports the median of the second over that of the
// first: a busy machine slows some of the runs, but not the typical one. It also
// reports the second's median in the unit; a negative unit is that of a rate, of
// which the first's is told as well.
func paired(b *testing.B, name string, unit time.Duration, floor, f func()) {
	b.Helper()
	b.ReportAllocs()
	var bare, whole []time.Duration
	for b.Loop() {
		t0 := time.Now()
		floor()
		t1 := time.Now()
		f()
		bare, whole = append(bare, t1.Sub(t0)), append(whole, time.Since(t1))
	}
	x, y := median(bare), median(whole)
	b.ReportMetric(0, "ns/op") // of both together
	b.ReportMetric(y/x, "x-go-spiffe")
	if unit < 0 {
		b.ReportMetric(float64(-unit)/y, name)
		b.ReportMetric(float64(-unit)/x, "go-spiffe-"+name)
		return
	}
	b.ReportMetric(y/float64(unit), name)
}

// median is in nanoseconds.
func median(of []time.Duration) float64 {
	slices.Sort(of)
	return float64(of[len(of)/2])
}
