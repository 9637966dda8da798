package agentclient_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/assay-project/assay/enclave-agent/agentclient"
)

// A server whose key lives in the TPM, for the members of its trust domain.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	src, err := agentclient.New(ctx, agentclient.Options{Socket: "/run/assay/agent.sock"})
	if err != nil {
		log.Print(err)
		return
	}
	defer src.Close()
	for _, id := range src.Identities() {
		fmt.Println(id.ID, "with its key in", id.Residency)
	}
	td := spiffeid.RequireTrustDomainFromString("attested.example.org")
	s := &http.Server{
		Addr: "127.0.0.1:9443", ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: tlsconfig.MTLSServerConfig(src, src, tlsconfig.AuthorizeMemberOf(td)),
	}
	log.Print(s.ListenAndServeTLS("", ""))
}
