package sevsnp

import (
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/simulators/internal/fault"
	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// KDSFault is one thing wrong with a KDS. The zero KDSFault changes nothing.
type KDSFault struct {
	Name        string // stable, for scripts: "dead"
	Description string // one line for people

	onRequest func(http.ResponseWriter, *http.Request) (done bool)
	onVCEK    func(*Authority, endorsement) ([]byte, error)
	onCRL     func(*Authority, *line, *crlPlan) error
	onAnswer  func(*KDS, *url.URL, answered) (answered, error)
}

// How long a slow KDS takes, unless the client gives up before, and how much an
// oversized answer has too much.
const (
	slowness  = 30 * time.Second
	oversized = 8 << 20
)

// KDSFaults lists what can be wrong with a KDS. The slice is the caller's.
func KDSFaults() []KDSFault {
	return []KDSFault{
		{Name: "dead", Description: "connections are closed without an answer",
			onRequest: func(w http.ResponseWriter, _ *http.Request) bool {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil { // HTTP/2: a status is the best that can be had
					write(w, refusal(http.StatusBadGateway, "dead"))
					return true
				}
				_ = c.Close()
				return true
			}},
		{Name: "slow", Description: "every answer takes thirty seconds",
			onRequest: func(w http.ResponseWriter, r *http.Request) bool {
				select {
				case <-r.Context().Done():
					return true
				case <-time.After(slowness):
					return false
				}
			}},
		{Name: "error", Description: "every answer is 500",
			onRequest: func(w http.ResponseWriter, _ *http.Request) bool {
				write(w, refusal(http.StatusInternalServerError, "internal server error"))
				return true
			}},
		{Name: "limited", Description: "every answer is 429, try again in a minute",
			onRequest: func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Retry-After", "60")
				write(w, refusal(http.StatusTooManyRequests, "too many requests"))
				return true
			}},
		{Name: "oversized", Description: "eight megabytes follow what was asked for",
			onAnswer: func(_ *KDS, _ *url.URL, a answered) (answered, error) {
				a.body = append(a.body, make([]byte, oversized)...)
				return a, nil
			}},
		{Name: "truncated", Description: "the second half of every answer is missing",
			onAnswer: func(_ *KDS, _ *url.URL, a answered) (answered, error) {
				a.body = a.body[:len(a.body)/2]
				return a, nil
			}},
		{Name: "html", Description: "every answer is a web page, with status 200",
			onAnswer: func(_ *KDS, _ *url.URL, a answered) (answered, error) {
				return answered{a.status, "text/html", []byte("<!doctype html><title>Maintenance</title>We are back soon.\n")}, nil
			}},
		{Name: "other-chip", Description: "certificates are for another chip than the one asked for",
			onVCEK: func(a *Authority, e endorsement) ([]byte, error) {
				e.chipID = slices.Clone(e.chipID)
				e.chipID[0] ^= 1
				return a.der(e)
			}},
		{Name: "other-tcb", Description: "certificates are for another TCB than the one asked for",
			onVCEK: func(a *Authority, e endorsement) ([]byte, error) {
				e.tcb.SNP++
				return a.der(e)
			}},
		{Name: "foreign", Description: "certificates and chains are of somebody else's root with the same names",
			onVCEK: func(a *Authority, e endorsement) ([]byte, error) {
				l, err := a.foreignLine(e.product.Line(), a.names)
				if err != nil {
					return nil, err
				}
				b, key, err := a.blueprint(e)
				if err != nil {
					return nil, err
				}
				return b.encode(l.ask, key)
			},
			onCRL: func(a *Authority, l *line, p *crlPlan) error {
				f, err := a.foreignLine(l.name, a.names)
				if err == nil {
					p.issuer = f.ark
				}
				return err
			},
			onAnswer: func(k *KDS, u *url.URL, out answered) (answered, error) {
				key, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/v1/")
				name, what, _ := strings.Cut(rest, "/")
				if what != "cert_chain" {
					return out, nil
				}
				f, err := k.authority.foreignLine(name, k.authority.names)
				if err == nil {
					out.body = slices.Concat(keyfile.EncodeCertificate(f.intermediate(SigningKey(key)).cert.Raw), keyfile.EncodeCertificate(f.ark.cert.Raw))
				}
				return out, err
			}},
		{Name: "expired-crl", Description: "the CRL should have been replaced a minute ago",
			onCRL: func(a *Authority, _ *line, p *crlPlan) error {
				p.nextUpdate = a.now().Add(-time.Minute)
				return nil
			}},
		{Name: "future-crl", Description: "the CRL becomes valid in a minute",
			onCRL: func(a *Authority, _ *line, p *crlPlan) error {
				p.thisUpdate = a.now().Add(time.Minute + time.Second)
				return nil
			}},
		{Name: "broken-crl", Description: "one bit of the CRL's signature is flipped",
			onCRL: func(_ *Authority, _ *line, p *crlPlan) error { p.flip = true; return nil }},
		{Name: "revoked-ask", Description: "the CRL revokes the ASK",
			onCRL: func(_ *Authority, l *line, p *crlPlan) error {
				p.revoked = append(p.revoked, l.ask.cert.SerialNumber)
				return nil
			}},
		{Name: "revoked-asvk", Description: "the CRL revokes the ASVK",
			onCRL: func(_ *Authority, l *line, p *crlPlan) error {
				p.revoked = append(p.revoked, l.asvk.cert.SerialNumber)
				return nil
			}},
		// Real VCEK certificates all have the serial number zero.
		{Name: "revoked-vcek", Description: "VCEK certificates have a serial number of their own, and the CRL revokes it",
			onVCEK: func(a *Authority, e endorsement) ([]byte, error) {
				b, key, err := a.blueprint(e)
				if err != nil {
					return nil, err
				}
				b.serial = big.NewInt(revokedSerial)
				return b.encode(a.lines[e.product.Line()].ask, key)
			},
			onCRL: func(_ *Authority, _ *line, p *crlPlan) error {
				p.revoked = append(p.revoked, big.NewInt(revokedSerial))
				return nil
			}},
		{Name: "unknown-chips", Description: "no chip is known",
			onAnswer: func(_ *KDS, u *url.URL, out answered) (answered, error) {
				if strings.HasSuffix(u.Path, "/cert_chain") || strings.HasSuffix(u.Path, "/crl") {
					return out, nil
				}
				return refusal(http.StatusNotFound, "there is no such chip"), nil
			}},
	}
}

// KDSFaultByName finds a fault.
func KDSFaultByName(name string) (KDSFault, bool) {
	return fault.Find(KDSFaults(), name, func(f KDSFault) string { return f.Name })
}

// der is the certificate for an endorsement.
func (a *Authority) der(e endorsement) ([]byte, error) {
	n, err := a.leaf(e)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.cert.Raw), nil
}
