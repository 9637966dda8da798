package store

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/awskms"
	"go.step.sm/crypto/kms/azurekms"
	"go.step.sm/crypto/kms/cloudkms"
	"go.step.sm/crypto/kms/uri"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
)

// cloud is a key service that go.step.sm/crypto speaks to. name turns a ref into
// what that library wants; made turns what it answers into a ref.
type cloud struct {
	kms        apiv1.KeyManager
	name       func(ref string) (string, error)
	request    func(name string) apiv1.CreateKeyRequest
	made       func(uri string) (string, error)
	howToWrite string // hint for a ref that is wrong
}

func (c *cloud) key(_ context.Context, ref string) (crypto.Signer, error) {
	name, err := c.name(ref)
	if err != nil {
		return nil, fault(attest.Internal, "key_ref", c.howToWrite, fmt.Errorf("ref %q: %w", ref, err))
	}
	s, err := c.kms.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: name})
	if err != nil {
		return nil, cloudFault("store_key", err)
	}
	return s, nil
}

func (c *cloud) create(_ context.Context, name string, alg Algorithm) (string, crypto.PublicKey, error) {
	req := c.request(name)
	req.SignatureAlgorithm, req.Bits = alg.step()
	made, err := c.kms.CreateKey(&req)
	if err != nil {
		return "", nil, cloudFault("store_create", err)
	}
	ref, err := c.made(made.Name)
	if err != nil {
		return "", nil, fault(attest.Internal, "store_create", "", fmt.Errorf("the key was made, and the service calls it %q: %w", made.Name, err))
	}
	return ref, made.PublicKey, nil
}

func (c *cloud) close() error { return c.kms.Close() }

// cloudFault keeps what the service said: its messages name keys and
// permissions, and hold no credentials.
func cloudFault(check string, err error) error {
	hint := ""
	kind := kindOf(err)
	// AWS answers with 400 for both, and says which in a code of its own.
	var aws interface{ ErrorCode() string }
	code := ""
	if errors.As(err, &aws) {
		code = aws.ErrorCode()
	}
	switch s := status(err); {
	case s == http.StatusNotFound, code == "NotFoundException":
		hint = "is the key in this region, project or vault?"
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	case s == http.StatusUnauthorized, s == http.StatusForbidden, code == "AccessDeniedException":
		hint = "the credentials of this machine may not do this"
	}
	if kind == attest.Unavailable {
		hint = "the service cannot be reached or is overloaded"
	}
	return fault(kind, check, hint, err)
}

// kindOf is Unavailable for what may be better in a moment: no answer, 429 and
// 5xx. A refusal of the service is for the operator.
func kindOf(err error) attest.Kind {
	var ne net.Error
	switch s := status(err); {
	case s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500:
		return attest.Unavailable
	case s != 0:
		return attest.Internal
	case errors.As(err, &ne), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return attest.Unavailable
	}
	return attest.Internal
}

// status is the HTTP status that an error carries, or 0. AWS's and Google's
// errors have a method for it.
func status(err error) int {
	var aws interface{ HTTPStatusCode() int }
	var google interface{ HTTPCode() int }
	switch {
	case errors.As(err, &aws):
		return aws.HTTPStatusCode()
	case errors.As(err, &google):
		return max(google.HTTPCode(), 0)
	}
	return 0
}

func openAWS(ctx context.Context, c config.AWSKMS) (backend, error) {
	v := url.Values{"region": {c.Region}}
	if c.Profile != "" {
		v.Set("profile", c.Profile)
	}
	k, err := awskms.New(ctx, apiv1.Options{URI: uri.New(awskms.Scheme, v).String()})
	if err != nil {
		return nil, fault(attest.Internal, "store_open", "check region, profile and the shared configuration", err)
	}
	return &cloud{
		kms: k,
		name: func(ref string) (string, error) {
			// An alias can be moved to another key, and what was pinned moves along.
			if strings.Contains(ref, "alias/") || strings.ContainsAny(ref, ";?=&%") || ref != strings.ToLower(ref) {
				return "", errors.New("want the id or the ARN of a key, not an alias")
			}
			return ref, nil
		},
		request: func(name string) apiv1.CreateKeyRequest { return apiv1.CreateKeyRequest{Name: name} },
		made: func(made string) (string, error) {
			u, err := uri.ParseWithScheme(awskms.Scheme, made)
			if err != nil {
				return "", err
			}
			return u.Get("key-id"), nil
		},
		howToWrite: "ref: 1234abcd-12ab-34cd-56ef-1234567890ab",
	}, nil
}

func openCloudKMS(ctx context.Context, c config.CloudKMS) (backend, error) {
	k, err := cloudkms.New(ctx, apiv1.Options{CredentialsFile: c.CredentialsFile})
	if err != nil {
		return nil, fault(attest.Internal, "store_open", "check credentials_file, or give the machine an identity", err)
	}
	return &cloud{
		kms: k,
		name: func(ref string) (string, error) {
			if !strings.HasPrefix(ref, "projects/") || !strings.Contains(ref, "/cryptoKeyVersions/") {
				return "", errors.New("want the resource name of a key version")
			}
			return ref, nil
		},
		request: func(name string) apiv1.CreateKeyRequest {
			return apiv1.CreateKeyRequest{Name: name, ProtectionLevel: apiv1.HSM}
		},
		made:       func(made string) (string, error) { return strings.TrimPrefix(made, cloudkms.Scheme+":"), nil },
		howToWrite: "ref: projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1",
	}, nil
}

func openAzure(ctx context.Context, c config.AzureKMS) (backend, error) {
	k, err := azurekms.New(ctx, apiv1.Options{URI: uri.New(azurekms.Scheme, url.Values{"vault": {c.Vault}}).String()})
	if err != nil {
		return nil, fault(attest.Internal, "store_open", "check the vault's name, and the machine's identity", err)
	}
	return &cloud{
		kms: k,
		name: func(ref string) (string, error) {
			name, version, ok := strings.Cut(ref, "/")
			if !ok || name == "" || version == "" || strings.ContainsAny(ref, ";?=&%") || strings.Contains(version, "/") {
				return "", errors.New("want NAME/VERSION")
			}
			return azurekms.Scheme + ":name=" + name + ";vault=" + c.Vault + "?version=" + version, nil
		},
		request: func(name string) apiv1.CreateKeyRequest {
			r := apiv1.CreateKeyRequest{Name: azurekms.Scheme + ":name=" + name + ";vault=" + c.Vault}
			if c.HSM {
				r.ProtectionLevel = apiv1.HSM
			}
			return r
		},
		made: func(made string) (string, error) {
			u, err := uri.ParseWithScheme(azurekms.Scheme, made)
			if err != nil {
				return "", err
			}
			return u.Get("name") + "/" + u.Get("version"), nil
		},
		howToWrite: "ref: NAME/VERSION, as Azure shows it in the key's identifier",
	}, nil
}
