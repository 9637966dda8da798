package issuer

import (
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/ledger"
)

type limitsOf = config.Limits

// settings is the configuration in force. What a reload may change is read from
// it each time; Server.cfg is what the server was started with.
func (s *Server) settings() *config.Config { return s.current.Load() }

// A reloader makes a part ready for another configuration. The error says why it
// cannot be: then nothing of that configuration is applied anywhere. apply puts
// it in force, and cannot fail.
type reloader func(next *config.Config) (apply func(), err error)

// onReload has a part hear of other configurations. It is for New alone.
func (s *Server) onReload(r reloader) { s.reloaders = append(s.reloaders, r) }

// PrepareReload makes the server ready for another configuration, of which only
// what config.Effective took over differs. apply puts all of it in force, at once
// as far as any single call can tell; with an error, nothing changes.
func (s *Server) PrepareReload(next config.Config) (apply func(), err error) {
	var all []func()
	for _, r := range s.reloaders {
		f, err := r(&next)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return func() {
		for _, f := range all {
			f()
		}
		s.current.Store(&next)
	}, nil
}

// LedgerQuotas are the quotas of a configuration, as the ledger takes them.
func LedgerQuotas(q config.Quotas) ledger.Quotas {
	return ledger.Quotas{
		DenialsPerInstance: q.DenialsPerInstance, DenialsPerHour: q.DenialsPerHour, Denials: q.Denials,
		EvidencePerInstance: q.EvidencePerInstance, EvidenceBytes: int64(q.EvidenceMiB) << 20, DeniedEvidenceBytes: int64(q.DeniedEvidenceMiB) << 20,
	}
}
