//go:build !cgo

package store

import (
	"context"
	"errors"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
)

func openToken(context.Context, config.PKCS11, *modules, Options) (backend, error) {
	return nil, fault(attest.Internal, "pkcs11_build", "build assay-signer with CGO_ENABLED=1 and a C compiler", errors.New("this binary was built without PKCS#11"))
}
