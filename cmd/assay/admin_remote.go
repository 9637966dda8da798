package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/internal/cli"
)

// A server that is elsewhere is named by its address, HOST:PORT, and asked over
// mutual TLS 1.3: it is known by its bootstrap root, and we by an X.509-SVID of
// the administrators' trust domain, from files or a SPIFFE Workload API.

// The environment that stands for the flags.
const (
	envAdmin         = "ASSAY_ADMIN"
	envAdminSVID     = "ASSAY_ADMIN_SVID"
	envAdminKey      = "ASSAY_ADMIN_KEY"
	envAdminRoot     = "ASSAY_ADMIN_ROOT"
	envAdminWorkload = "ASSAY_ADMIN_WORKLOAD_API"
)

// remoteScheme begins the address of a server that is elsewhere, once all flags
// are read into it.
const remoteScheme = "tls://"

// adminFlag adds --admin, and what goes with it. After the flags are read the
// string is the path of a socket, or a remote address with all that is needed.
func adminFlag(c *cobra.Command) *string {
	target := c.Flags().String("admin", defaultAdminSocket, "`SOCKET` of the server's admin service, or HOST:PORT of one that is elsewhere ($"+envAdmin+")")
	svid := c.Flags().String("admin-svid", "", "with HOST:PORT, `FILE` with our X.509-SVID, PEM, leaf first ($"+envAdminSVID+")")
	key := c.Flags().String("admin-key", "", "`FILE` with its private key, PEM; where it is not in the file of the SVID ($"+envAdminKey+")")
	root := c.Flags().String("admin-root", "", "`FILE` with the server's bootstrap root, PEM, as of `assayd bootstrap export` ($"+envAdminRoot+")")
	api := c.Flags().String("admin-workload-api", "", "get our X.509-SVID from this Workload API, a `SOCKET`, instead of a file ($"+envAdminWorkload+")")
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		for _, f := range []struct {
			name, env string
			value     *string
		}{
			{"admin", envAdmin, target}, {"admin-svid", envAdminSVID, svid}, {"admin-key", envAdminKey, key},
			{"admin-root", envAdminRoot, root}, {"admin-workload-api", envAdminWorkload, api},
		} {
			if v := os.Getenv(f.env); v != "" && !c.Flags().Changed(f.name) {
				*f.value = v
			}
		}
		if !isRemote(*target) {
			return nil
		}
		*target = (&url.URL{Scheme: "tls", Host: strings.TrimPrefix(*target, remoteScheme), RawQuery: url.Values{
			"svid": {*svid}, "key": {*key}, "root": {*root}, "api": {*api},
		}.Encode()}).String()
		return nil
	}
	return target
}

// isRemote tells HOST:PORT from a path.
func isRemote(s string) bool {
	if strings.HasPrefix(s, remoteScheme) {
		return true
	}
	_, port, err := net.SplitHostPort(s)
	return err == nil && port != "" && !strings.Contains(s, "/")
}

// remoteAdmin is the address and the credentials of a server that is elsewhere.
func remoteAdmin(target string) (address string, conf *tls.Config, closer func(), err error) {
	closer = func() {}
	u, err := url.Parse(target)
	if err != nil {
		return "", nil, closer, cli.Usagef("for example --admin assay.example.org:8444", "--admin %s: %w", target, err)
	}
	q := u.Query()
	if q.Get("root") == "" {
		return "", nil, closer, cli.Usagef("`assayd bootstrap export` prints it on the server", "--admin-root FILE: the server's bootstrap root is needed to know that it is the server")
	}
	roots := x509.NewCertPool()
	pem, err := cli.ReadFile(q.Get("root"), 1<<20)
	if err != nil {
		return "", nil, closer, cli.Usagef("", "--admin-root: %s", clean(err))
	}
	if !roots.AppendCertsFromPEM(pem) {
		return "", nil, closer, cli.Usagef("`assayd bootstrap export` prints it on the server", "--admin-root %s holds no certificate", q.Get("root"))
	}
	own, closer, err := ownSVID(q.Get("svid"), q.Get("key"), q.Get("api"))
	if err != nil {
		return "", nil, closer, err
	}
	return u.Host, &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: u.Hostname(),
		// The server's name is a SPIFFE ID: VerifyConnection checks it, and the chain.
		InsecureSkipVerify: true, //nolint:gosec // verified in VerifyConnection
		VerifyConnection:   func(cs tls.ConnectionState) error { return checkServer(cs, roots, time.Now()) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			s, err := own.GetX509SVID()
			if err != nil {
				return nil, err
			}
			out := &tls.Certificate{PrivateKey: s.PrivateKey, Leaf: s.Certificates[0]}
			for _, c := range s.Certificates {
				out.Certificate = append(out.Certificate, c.Raw)
			}
			return out, nil
		},
	}, closer, nil
}

// refusal tells why a server that is elsewhere did not answer, if it is the
// certificates: in TLS 1.3 a server refuses ours after the handshake is over for
// us, and gRPC may see no more than that the connection was closed.
func refusal(ctx context.Context, address string, conf *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conf = conf.Clone()
	conf.NextProtos = []string{"h2"}
	c, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", address)
	var op *net.OpError
	switch {
	case err == nil:
	case errors.As(err, &op) && op.Op == "dial":
		return nil // nobody is there: that is another matter
	default:
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetReadDeadline(time.Now().Add(time.Second)) // of a connection that was just made
	if _, err := c.Read(make([]byte, 1)); err != nil && strings.Contains(err.Error(), "remote error: tls") {
		return err
	}
	return nil
}

// serverPath is that of every server's SPIFFE ID.
const serverPath = "/assay/server"

// checkServer checks that a server's certificate is one of the pinned root.
func checkServer(cs tls.ConnectionState, roots *x509.CertPool, now time.Time) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	leaf, between := cs.PeerCertificates[0], x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("the server's certificate does not chain to --admin-root: %w", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].Scheme != "spiffe" || leaf.URIs[0].Path != serverPath {
		return fmt.Errorf("the certificate is no Assay server's: it names %v", leaf.URIs)
	}
	return nil
}

// ownSVID is what we show. It is read when the connection is made.
func ownSVID(file, key, api string) (x509svid.Source, func(), error) {
	none := func() {}
	switch {
	case file != "" && api != "":
		return nil, none, cli.Usagef("", "--admin-svid and --admin-workload-api: one of the two")
	case api != "":
		if !strings.Contains(api, ":") {
			api = "unix://" + api
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(api)))
		if err != nil {
			return nil, none, unavailable("is the agent running, and does it know this process?", "--admin-workload-api %s: %s", api, clean(err))
		}
		return s, func() { _ = s.Close() }, nil
	case file != "":
		if key == "" {
			key = file
		}
		s, err := x509svid.Load(file, key)
		if err != nil {
			return nil, none, cli.Usagef("--admin-svid holds the certificate, and --admin-key the private key, both in PEM", "our X.509-SVID: %s", clean(err))
		}
		return s, none, nil
	}
	return nil, none, cli.Usagef("name it with --admin-svid FILE, or get it with --admin-workload-api SOCKET", "an administrator's X.509-SVID is needed for a server that is elsewhere")
}
