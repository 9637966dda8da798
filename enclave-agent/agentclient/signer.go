package agentclient

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

// signTimeout bounds one signature, waiting for others' included.
const signTimeout = 15 * time.Second

// busyWait is how long a signer waits before it asks a busy agent again.
const busyWait = 50 * time.Millisecond

// Signer is a key in the hardware of the agent: a crypto.Signer that asks the
// agent for each signature. After a renewal it still signs, until its own
// certificate ends.
type Signer struct {
	client agentv1.AgentClient
	id     spiffeid.ID
	spki   [sha256.Size]byte
	public crypto.PublicKey
}

func newSigner(c agentv1.AgentClient, id spiffeid.ID, leaf *x509.Certificate) *Signer {
	return &Signer{client: c, id: id, spki: sha256.Sum256(leaf.RawSubjectPublicKeyInfo), public: leaf.PublicKey}
}

// Public is the key of the certificate.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Sign signs a digest of SHA-256, SHA-384 or SHA-512; ECDSA, ASN.1 DER. An agent
// that is busy is asked again, for 15 seconds at most. The reader is not used: the
// hardware has its own.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	return s.SignContext(ctx, digest, opts)
}

// SignContext is Sign with a time-out of the caller's.
func (s *Signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	alg := agentv1.HashAlgorithm_HASH_ALGORITHM_UNSPECIFIED
	switch opts.HashFunc() {
	case crypto.SHA256:
		alg = agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256
	case crypto.SHA384:
		alg = agentv1.HashAlgorithm_HASH_ALGORITHM_SHA384
	case crypto.SHA512:
		alg = agentv1.HashAlgorithm_HASH_ALGORITHM_SHA512
	default:
		return nil, fmt.Errorf("agentclient: a key in hardware signs digests of SHA-256, SHA-384 or SHA-512, not of %s", opts.HashFunc())
	}
	r := &agentv1.SignRequest{SpiffeId: s.id.String(), HashAlgorithm: alg, Digest: digest, SpkiSha256: s.spki[:]}
	for {
		out, err := s.client.Sign(withHeader(ctx), r)
		if status.Code(err) == codes.ResourceExhausted && wait(ctx) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("agentclient: sign as %s: %w", s.id, err)
		}
		return out.GetSignature(), nil
	}
}

func wait(ctx context.Context) bool {
	t := time.NewTimer(busyWait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
