package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// maxCertificates bounds the chain that is read, and maxForwarded what it is read
// from, in bytes.
const (
	maxCertificates = 8
	maxForwarded    = 64 << 10
)

// peerChain is the certificate that the client of Envoy has shown, and has proven to
// hold the key of; nil without one. Envoy forwards it in source.certificate, the
// leaf alone. Intermediates are in x-forwarded-client-cert, where Envoy is
// configured to set it (chain: true). They vouch for nothing by themselves.
func peerChain(r *authv3.AttributeContext) ([]*x509.Certificate, error) {
	text := r.GetSource().GetCertificate()
	if text == "" {
		return nil, nil
	}
	chain, err := certificates(text)
	if err != nil {
		return nil, fmt.Errorf("source.certificate: %w", err)
	}
	if len(chain) != 1 {
		return nil, fmt.Errorf("source.certificate holds %d certificates, want one", len(chain))
	}
	header := r.GetRequest().GetHttp().GetHeaders()["x-forwarded-client-cert"]
	if header == "" {
		return chain, nil
	}
	fields, err := clientCert(header)
	if err != nil {
		return nil, fmt.Errorf("x-forwarded-client-cert: %w", err)
	}
	if fields["chain"] == "" {
		return chain, nil
	}
	forwarded, err := certificates(fields["chain"])
	if err != nil {
		return nil, fmt.Errorf("x-forwarded-client-cert: %w", err)
	}
	if !forwarded[0].Equal(chain[0]) {
		return nil, errors.New("x-forwarded-client-cert is about another certificate than the connection's: Envoy should set it, not forward it")
	}
	return forwarded, nil
}

// certificates reads PEM that Envoy has escaped for a URL.
func certificates(escaped string) ([]*x509.Certificate, error) {
	if len(escaped) > maxForwarded {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(escaped), maxForwarded)
	}
	text, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(out) == maxCertificates {
			return nil, fmt.Errorf("a PEM block of type %.40q, or more than %d certificates", block.Type, maxCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return out, nil
}

// clientCert reads the one element of x-forwarded-client-cert: Key=value pairs with
// semicolons between them, values in double quotes where they hold a separator. The
// names come out in lower case. Several elements would be those of several proxies,
// of which only the last is Envoy's.
func clientCert(header string) (map[string]string, error) {
	if len(header) > maxForwarded {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(header), maxForwarded)
	}
	out := map[string]string{}
	for rest := header; ; {
		name, after, ok := strings.Cut(rest, "=")
		name = strings.ToLower(name)
		if !ok || name == "" || strings.ContainsAny(name, `,;" `) {
			return nil, errors.New("not a list of Key=value")
		}
		var value string
		var err error
		if value, rest, err = nextValue(after); err != nil {
			return nil, err
		}
		if _, twice := out[name]; twice && name != "uri" && name != "dns" {
			return nil, fmt.Errorf("%s is there twice", name)
		}
		out[name] = value
		switch {
		case rest == "":
			return out, nil
		case rest[0] == ',':
			return nil, errors.New("it has several elements: Envoy should set it, not append to it")
		case rest[0] != ';':
			return nil, errors.New("something follows a quoted value")
		}
		rest = rest[1:]
	}
}

// nextValue reads a value up to the separator behind it.
func nextValue(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		n := strings.IndexAny(s, ",;")
		if n < 0 {
			n = len(s)
		}
		return s[:n], s[n:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", errors.New("a quoted value does not end")
}
