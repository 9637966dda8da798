package ca

import (
	"crypto/x509"

	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// taintedBy: see [CA.TaintedBy]. There is rarely anything to compare with.
func (s *snapshot) taintedBy(cert *x509.Certificate) bool {
	var result *svid.Unverified
	for _, a := range s.tainted {
		switch a.row.Use {
		case store.X509:
			if a.cert != nil && a.cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
				return true
			}
		case store.Verifier:
			if result == nil {
				var err error
				if result, err = svid.ResultFrom(cert); err != nil {
					return true // none of ours: every SVID has a result
				}
			}
			if result.KeyID == a.thumb {
				return true
			}
		case store.JWT, store.DenyList:
		}
	}
	return false
}
