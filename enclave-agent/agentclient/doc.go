// Package agentclient lets a program use identities whose keys live in the
// hardware of its agent (key_residency: tpm). Such a key cannot be handed out by
// the SPIFFE Workload API; the agent signs with it instead (assay.agent.v1).
//
//	src, err := agentclient.New(ctx, agentclient.Options{Socket: "/run/assay/agent.sock"})
//	defer src.Close()
//	config := tlsconfig.MTLSServerConfig(src, src, tlsconfig.AuthorizeMemberOf(td)) // go-spiffe's
//
// A [Source] is what go-spiffe's TLS configurations take, for certificates and for
// bundles, and follows renewals by itself. With crypto/tls alone, its
// GetCertificate and GetClientCertificate are for the fields of the same names.
// [Source.Identities] tells everything: where keys live, the attestation results,
// and a [Signer] for each key.
//
// Every handshake costs a signature of the TPM, some tens of milliseconds on
// hardware, and the agent limits them: keep connections, and resume
// sessions (svid.NewSessionCache keeps those of the present SVID).
//
// For keys in memory use go-spiffe's workloadapi.
package agentclient
