package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

// shown is what somebody shows: certificates, in a file or on a connection, or a
// token.
type shown struct {
	name   string
	chains [][]*x509.Certificate // one for each leaf, leaf first
	others []*x509.Certificate   // authorities without a leaf before them
	token  string
	live   *connection // nil for a file
}

// connection is what a TLS handshake told.
type connection struct {
	Address string `json:"address"`
	Version string `json:"tls_version"`
	ALPN    string `json:"alpn,omitempty"`
	state   tls.ConnectionState
}

// liveFlags are how to connect.
type liveFlags struct {
	cert, key string
	timeout   time.Duration
}

func (f *liveFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.cert, "client-cert", "", "PEM `FILE` with the certificate chain to show to a server that asks for one")
	c.Flags().StringVar(&f.key, "client-key", "", "PEM `FILE` with its private key")
	c.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "how long a connection may take")
	c.MarkFlagsRequiredTogether("client-cert", "client-key")
}

const shownHelp = `SVID is a file, - for standard input, or the address of a TLS server, HOST:PORT. A
file holds certificates in PEM (a chain, leaf first; several chains after one
another; other blocks, such as a private key, are left alone), one DER
certificate, or one JWT-SVID. A token is not taken from the command line, where
everybody on the machine can read it.`

// readShown reads the argument.
func (f *liveFlags) readShown(c *cobra.Command, arg string) (*shown, error) {
	if isToken(arg) {
		// Whoever takes it for a name would repeat it, in a log at the worst.
		return nil, cli.Usagef("give - and the token on standard input, or a file that holds it", "SVID is a token: it is not taken from the command line, where everybody on this machine can read it")
	}
	if address, ok := liveAddress(arg); ok {
		return f.connect(c.Context(), address)
	}
	b, err := readAtMost(c, arg, maxShown)
	if err != nil {
		return nil, err
	}
	if t := strings.TrimSpace(string(b)); looksLikeToken(t) {
		return &shown{name: arg, token: t}, nil
	}
	certs, err := parseChain(arg, b)
	if err != nil {
		return nil, err
	}
	out := &shown{name: arg}
	out.split(certs)
	if n := max(len(out.chains), len(out.others)); n > maxChains {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "size", Err: fmt.Errorf("%s holds too many certificates", arg),
			Expected: fmt.Sprintf("at most %d chains, or authorities", maxChains), Got: strconv.Itoa(n),
		}
	}
	return out, nil
}

// What a file of SVIDs may hold: every one of them is parsed, judged and printed.
const (
	maxShown  = 1 << 20 // bytes
	maxChains = 64
)

// split parts certificates into chains: each begins with a leaf. Authorities in front
// of the first leaf are a chain too: a program that is given the file shows the very
// first certificate, whatever it is, and so it is judged and printed like any.
func (s *shown) split(certs []*x509.Certificate) {
	for _, c := range certs {
		switch n := len(s.chains); {
		case !c.IsCA:
			s.chains = append(s.chains, []*x509.Certificate{c})
		case n > 0:
			s.chains[n-1] = append(s.chains[n-1], c)
		default:
			s.others = append(s.others, c)
		}
	}
	if len(s.chains) > 0 && len(s.others) > 0 {
		s.chains, s.others = append([][]*x509.Certificate{s.others}, s.chains...), nil
	}
}

// liveAddress tells an address from the name of a file: a file that is there is
// meant, whatever it is called.
func liveAddress(arg string) (string, bool) {
	if rest, ok := strings.CutPrefix(arg, "tls://"); ok {
		return rest, true
	}
	if _, err := os.Lstat(arg); err == nil || arg == "-" || strings.ContainsRune(arg, '/') {
		return "", false
	}
	host, port, err := net.SplitHostPort(arg)
	if err != nil || host == "" {
		return "", false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return arg, err == nil && n > 0
}

// isToken tells a token that was given instead of a file: its header is JSON, and no
// file has such a name.
func isToken(arg string) bool {
	arg = strings.TrimSpace(arg)
	if len(arg) < 40 || !looksLikeToken(arg) {
		return false
	}
	header, _, _ := strings.Cut(arg, ".")
	if b, err := base64.RawURLEncoding.DecodeString(header); err != nil || !strings.HasPrefix(strings.TrimSpace(string(b)), "{") {
		return false // the name of a host, say
	}
	_, err := os.Lstat(arg)
	return err != nil
}

// looksLikeToken tells the shape: three parts in base64url, whatever they hold.
func looksLikeToken(s string) bool {
	return strings.Count(s, ".") == 2 && s[0] != '.' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.=", r)
	})
}

// unparsed is what crypto/tls says, without a type, of a certificate that x509 does
// not read.
const unparsed = "failed to parse certificate from server"

// connect makes a TLS handshake, verifies nothing in it, and says nothing more.
func (f *liveFlags) connect(ctx context.Context, address string) (*shown, error) {
	unreachable := func(err error) error {
		return &attest.Error{Kind: attest.Unavailable, Check: "connection", Err: fmt.Errorf("%s: %w", address, err), Hint: "SVID is HOST:PORT of a TLS server, or a file"}
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, cli.Usagef("HOST:PORT, as in orders.example.org:8443", "%q is no address: %w", address, err)
	}
	cfg := &tls.Config{
		// Old versions are reported, and refused by whoever verifies.
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // what was shown is verified afterwards, or said not to be
		NextProtos:         []string{"h2", "http/1.1"},
	}
	if net.ParseIP(host) == nil {
		cfg.ServerName = host
	}
	if f.cert != "" {
		own, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, cli.Usagef("certificate chain and private key in PEM", "--client-cert, --client-key: %s", clean(err))
		}
		cfg.Certificates = []tls.Certificate{own}
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil && strings.Contains(err.Error(), unparsed) {
		// Somebody answered, with what no honest issuer writes: to try again is no use.
		return nil, &attest.Error{Kind: attest.Malformed, Check: "chain_parse", Err: fmt.Errorf("%s: %w", address, err)}
	}
	if err != nil {
		return nil, unreachable(err)
	}
	defer func() { _ = conn.Close() }()
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil, errors.New("a TLS dialer returned another connection")
	}
	state := t.ConnectionState()
	out := &shown{name: address, live: &connection{Address: address, Version: tls.VersionName(state.Version), ALPN: state.NegotiatedProtocol, state: state}}
	if len(state.PeerCertificates) == 0 {
		return nil, unreachable(errors.New("the server showed no certificate"))
	}
	// The first certificate is the server's own, whatever it says of itself.
	out.chains = [][]*x509.Certificate{slices.Clone(state.PeerCertificates)}
	return out, nil
}
