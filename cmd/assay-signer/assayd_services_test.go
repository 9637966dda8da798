package main

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-project/assay/cmd/assay-signer/internal/standin"
)

// issues has a server whose authorities' keys are in the office's store issue to
// an enclave.
func issues(t *testing.T, o *office, store, stores string) {
	t.Helper()
	o.authorities(store, stores)
	held := o.held()
	i := newIssuer(o)
	s := o.run()
	assayd := i.serve()
	dir, agent := i.enclave()
	if by := signedBy(i.fetch(dir), held); !strings.HasPrefix(by, "x509-ca-") {
		t.Errorf("the SVID is signed by %q, not by the key in %s", by, store)
	}
	i.verify(dir)
	i.noKeyFiles()
	agent.stop(syscall.SIGTERM)
	assayd.stop(syscall.SIGTERM)
	s.stop(syscall.SIGTERM)
}

func TestAssaydIssuesWithKeysInAWSKMS(t *testing.T) {
	aws := standin.NewAWSKMS()
	o := newOffice(t)
	o.env = append(o.env, "AWS_ENDPOINT_URL_KMS="+serve(t, aws), "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=example-secret-access-key",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1", "AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull)
	issues(t, o, "aws", "  aws:\n    awskms: {region: eu-central-1}\n")
	if !slices.Contains(aws.Seen(), "Sign") {
		t.Error("the service never saw Sign")
	}
}

func TestAssaydIssuesWithKeysInVaultTransit(t *testing.T) {
	o, stores := vaultOffice(t, standin.NewVault(vaultToken))
	issues(t, o, "v", stores)
}
