package agent

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/enclave-agent/entropy"
)

// tpmRandom is what one TPM2_GetRandom is asked for, in bytes: the digest of SHA-256,
// which every TPM can give (Part 3, section 16.1).
const tpmRandom = 32

// Entropy asks the TPM for n random bytes, with as many TPM2_GetRandom as it takes,
// in one turn. Errors are those of Evidence, and those of [entropy.Gather].
func (t *TPM) Entropy(ctx context.Context, n int) ([]byte, error) {
	return withTPM(ctx, t, t.timeout, func(s *tpmSession) ([]byte, error) {
		return entropy.Gather(n, tpmRandom, func() ([]byte, error) {
			r, err := tpm2.GetRandom{BytesRequested: tpmRandom}.Execute(s)
			if err != nil {
				return nil, fmt.Errorf("TPM2_GetRandom: %w", err)
			}
			return r.RandomBytes.Buffer, nil
		})
	})
}
