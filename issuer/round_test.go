package issuer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/verifiers"
)

// asker is a verifier with a second round that believes everything: these tests
// are of the stream around a verifier. Real TPMs are in tpm_test.go.
type asker struct {
	ask       []byte // what the second round asks; nil for no second round
	askTwice  bool
	mu        sync.Mutex
	got       attest.Evidence
	proof     []byte
	exchanged error
}

func (a *asker) Platform() attest.Platform { return attest.TPM2 }
func (a *asker) Simulated() bool           { return true }

func (a *asker) Authenticate(context.Context, attest.Evidence, time.Time) (*attest.Claims, error) {
	return nil, errors.New("only with a challenge")
}

func (a *asker) AuthenticatePending(_ context.Context, ev attest.Evidence, _ time.Time) (*attest.Claims, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = ev
	sum := sha256.Sum256([]byte("an EK"))
	return &attest.Claims{Platform: attest.TPM2, Simulated: true, TPM: &attest.TPM{
		Bank: "sha256", PCRs: map[int]attest.Bytes{7: sum[:]}, EK: sum[:], KeyResidency: attest.ResidentSoftware,
	}}, nil
}

func (a *asker) Bound(*attest.Claims, attest.Binding) error { return nil }

func (a *asker) Activate(ctx context.Context, _ attest.Evidence, c *attest.Claims, _ attest.Binding, x verifiers.Exchange, _ time.Time) error {
	c.TPM.AKTrust = attest.AKActivated
	if a.ask == nil {
		return nil
	}
	proof, err := x(ctx, a.ask)
	if err == nil && a.askTwice {
		_, err = x(ctx, a.ask)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.proof, a.exchanged = proof, err
	return err
}

func (a *asker) seen() attest.Evidence {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got
}

const machineID = "spiffe://" + trustDomain + "/machine"

// openRound starts a server with such a verifier, whose machine the policy
// grants an identity.
func openRound(t *testing.T, v *asker, options ...option) *office {
	t.Helper()
	o := openBeside(t, func(*office) verifiers.Verifier { return v }, options...)
	o.replacePolicy(policyText(2) + fmt.Sprintf(`  - name: machine
    tee: tpm2
    mode: enforce
    match:
      pcr7: {eq: "%[1]x"}
      ek: {eq: "%[1]x"}
    issue:
      - spiffe_id: "spiffe://{td}/machine"
`, sha256.Sum256([]byte("an EK"))))
	return o
}

// machine prepares an attestation of a machine with a TPM, whose boot log has so
// many bytes.
func (o *office) machine(conn *grpc.ClientConn, log []byte) *attempt {
	a := o.attempt(conn)
	a.hello.Tee = string(attest.TPM2)
	a.evidence = &assayv1.Evidence{Body: &assayv1.Evidence_Tpm{Tpm: &assayv1.TpmEvidence{Body: []byte("a quote"), EventLogSize: uint32(len(log))}}}
	return a
}

func (a *attempt) sendEvidence() {
	a.o.t.Helper()
	a.send(&assayv1.AttestRequest{Message: &assayv1.AttestRequest_Evidence{Evidence: a.evidence}})
}

// send sends one message; the stream may have ended by then, which the next
// receive tells.
func (a *attempt) send(m *assayv1.AttestRequest) { _ = a.stream.Send(m) }

func chunk(data []byte) *assayv1.AttestRequest {
	return &assayv1.AttestRequest{Message: &assayv1.AttestRequest_EventLog{EventLog: &assayv1.EventLogChunk{Data: data}}}
}

func proof(data []byte) *assayv1.AttestRequest {
	return &assayv1.AttestRequest{Message: &assayv1.AttestRequest_CredentialProof{CredentialProof: &assayv1.CredentialProof{Proof: data}}}
}

const fullChunk = 48 << 10

// sendLog sends a log in chunks.
func (a *attempt) sendLog(log []byte) {
	for len(log) > 0 {
		n := min(fullChunk, len(log))
		a.send(chunk(log[:n]))
		log = log[n:]
	}
}

// asked reads the second question.
func (a *attempt) asked() []byte {
	a.o.t.Helper()
	resp, err := a.stream.Recv()
	must(a.o.t, err)
	if resp.GetCredentialChallenge() == nil {
		a.o.t.Fatalf("no second question: %v", resp)
	}
	return resp.GetCredentialChallenge().GetCredential()
}

func bootLog(n int) []byte { return bytes.Repeat([]byte("event"), n/5+1)[:n] }

func TestATPMIsAskedForItsStaticRegistersAndOthersForNone(t *testing.T) {
	for _, bank := range []string{"sha256", "sha384"} {
		o := openRound(t, &asker{}, func(c *config.Config) { c.TPM.PCRBank = bank })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for tee, want := range map[string]string{"tpm2": bank + " [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]", "aws-nitro": " []"} {
			stream, err := assayv1.NewAttestationClient(o.connect()).Attest(ctx)
			must(t, err)
			h := o.attempt(nil).hello
			h.Tee = tee
			must(t, stream.Send(&assayv1.AttestRequest{Message: &assayv1.AttestRequest_Hello{Hello: h}}))
			resp, err := stream.Recv()
			must(t, err)
			if got := fmt.Sprint(resp.GetChallenge().GetPcrBank(), " ", resp.GetChallenge().GetPcrs()); got != want {
				t.Errorf("%s is asked for %q, want %q", tee, got, want)
			}
		}
	}
}

func TestABootLogOfAnySizeArrivesWhole(t *testing.T) {
	v := &asker{}
	o := openRound(t, v)
	conn := o.connect()
	for _, n := range []int{0, 1, fullChunk - 1, fullChunk, fullChunk + 1, 3*fullChunk + 17, attest.MaxTPMEventLog} {
		log := bootLog(n)
		a := o.machine(conn, log)
		must(t, a.challenge())
		a.sendEvidence()
		a.sendLog(log)
		issued, err := a.issued()
		if err != nil {
			t.Fatalf("a log of %d bytes: %v", n, err)
		}
		if id := issued.GetSvids()[0].GetSpiffeId(); id != machineID {
			t.Errorf("issued %s", id)
		}
		if got := v.seen(); !bytes.Equal(got.EventLog, log) || string(got.Body) != "a quote" || got.Platform != attest.TPM2 {
			t.Errorf("of a log of %d bytes %d arrived", n, len(got.EventLog))
		}
	}
	eventually(t, "nothing to be held", func() bool { return o.gauge("assay_event_log_bytes") == 0 })
}

func TestTheBootLogIsOnRecordWithTheEvidence(t *testing.T) {
	o := openRound(t, &asker{})
	log := bootLog(70_000)
	a := o.machine(o.connect(), log)
	must(t, a.challenge())
	a.sendEvidence()
	a.sendLog(log)
	_, err := a.issued()
	must(t, err)
	digest := sha256.Sum256([]byte("a quote"))
	r, err := o.admin().GetEvidence(t.Context(), &assayv1.GetEvidenceRequest{Digest: digest[:]})
	must(t, err)
	if !bytes.Equal(r.GetEventLog(), log) || string(r.GetBody()) != "a quote" {
		t.Errorf("%d bytes of log on record", len(r.GetEventLog()))
	}
}

func TestABootLogOutOfOrderIsRefused(t *testing.T) {
	o := openRound(t, &asker{})
	conn := o.connect()
	log := bootLog(2*fullChunk + 10)
	malformed := func(check string) func(t *testing.T, err error) {
		return func(t *testing.T, err error) {
			t.Helper()
			wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, check)
		}
	}
	for _, c := range []struct {
		name string
		send func(a *attempt)
		want func(t *testing.T, err error)
	}{
		{"too large", func(a *attempt) {
			a.evidence.GetTpm().EventLogSize = attest.MaxTPMEventLog + 1
			a.sendEvidence()
		}, malformed("event_log_size")},
		{"larger than a number can say", func(a *attempt) {
			a.evidence.GetTpm().EventLogSize = 1<<32 - 1
			a.sendEvidence()
		}, malformed("event_log_size")},
		{"a chunk that is not full", func(a *attempt) { a.sendEvidence(); a.send(chunk(log[:fullChunk-1])) }, malformed("event_log_chunk")},
		{"a chunk that is too large", func(a *attempt) { a.sendEvidence(); a.send(chunk(log[:fullChunk+1])) }, malformed("event_log_chunk")},
		{"an empty chunk", func(a *attempt) { a.sendEvidence(); a.send(chunk(nil)) }, malformed("event_log_chunk")},
		{"a last chunk that is too short", func(a *attempt) { a.sendEvidence(); a.sendLog(log[:2*fullChunk]); a.send(chunk(log[:9])) }, malformed("event_log_chunk")},
		{"a last chunk that is too long", func(a *attempt) { a.sendEvidence(); a.sendLog(log[:2*fullChunk]); a.send(chunk(log[:11])) }, malformed("event_log_chunk")},
		{"a chunk missing", func(a *attempt) { a.sendEvidence(); a.sendLog(log[:fullChunk]); must(t, a.stream.CloseSend()) }, malformed("protocol_order")},
		{"evidence twice", func(a *attempt) { a.sendEvidence(); a.sendEvidence() }, malformed("protocol_order")},
		{"a proof that nobody asked for", func(a *attempt) { a.sendEvidence(); a.send(proof([]byte("p"))) }, malformed("protocol_order")},
		{"a proof before the evidence", func(a *attempt) { a.send(proof([]byte("p"))) }, malformed("protocol_order")},
		{"a chunk before the evidence", func(a *attempt) { a.send(chunk(log[:fullChunk])) }, malformed("protocol_order")},
		{"the evidence of another TEE", func(a *attempt) {
			a.evidence = &assayv1.Evidence{Body: &assayv1.Evidence_Nitro{Nitro: &assayv1.NitroEvidence{Document: []byte("d")}}}
			a.sendEvidence()
		}, malformed("evidence_platform")},
		{"late", func(a *attempt) {
			a.sendEvidence()
			a.sendLog(log[:fullChunk])
			o.clock.Advance(61 * time.Second)
			a.sendLog(log[fullChunk:])
		}, func(t *testing.T, err error) {
			t.Helper()
			wantRefusal(t, err, codes.Aborted, attest.Stale, "deadline")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := o.machine(conn, log)
			must(t, a.challenge())
			c.send(a)
			_, err := a.issued()
			c.want(t, err)
		})
	}
	t.Run("a TPM's evidence of an enclave", func(t *testing.T) {
		a := o.attempt(conn)
		must(t, a.challenge())
		a.evidence = o.machine(nil, nil).evidence
		_, err := a.answer()
		wantRefusal(t, err, codes.InvalidArgument, attest.Malformed, "evidence_platform")
	})
	eventually(t, "nothing to be held", func() bool {
		return o.gauge("assay_event_log_bytes") == 0 && o.gauge("assay_unverified_in_flight") == 0
	})
}

func TestABootLogThatNeverComesIsNotWaitedFor(t *testing.T) {
	o := openRound(t, &asker{})
	o.server.SetChallengeTTL(500 * time.Millisecond)
	log := bootLog(3 * fullChunk)
	a := o.machine(o.connect(), log)
	must(t, a.challenge())
	a.sendEvidence()
	a.sendLog(log[:fullChunk])
	eventually(t, "a chunk to be held", func() bool { return o.gauge("assay_event_log_bytes") == fullChunk })
	if _, err := a.issued(); status.Code(err) != codes.DeadlineExceeded { // gRPC's own answer
		t.Errorf("got %v", err)
	}
	eventually(t, "nothing to be held", func() bool { return o.gauge("assay_event_log_bytes") == 0 })
}

// Strangers from other addresses hold all the memory there is for logs. An
// address is a stranger's too: the tests have one, so that the stranger's own
// streams are those that lose.
func TestStrangersCannotFillTheMemoryForBootLogs(t *testing.T) {
	v := &asker{}
	o := openRound(t, v, func(c *config.Config) { c.Limits.EventLogMiB = 1 })
	full := bootLog(attest.MaxTPMEventLog)
	conn := o.connect()
	var strangers []*attempt
	for range 3 {
		a := o.machine(conn, full)
		must(t, a.challenge())
		a.sendEvidence()
		a.sendLog(full[:7*fullChunk]) // and no more: 1 MiB holds 21 chunks
		strangers = append(strangers, a)
	}
	eventually(t, "all of it to be held", func() bool { return o.gauge("assay_event_log_bytes") == 21*fullChunk })

	// Who comes and answers takes the place of the one that waits longest.
	log := bootLog(2 * fullChunk)
	a := o.machine(o.connect(), log)
	must(t, a.challenge())
	a.sendEvidence()
	a.sendLog(log)
	_, err := a.issued()
	must(t, err)
	if _, err := strangers[0].issued(); err == nil {
		t.Error("the stranger that had waited longest was not ended")
	}
	if n := o.counter(`assay_admission_refused_total{limit="bytes",trust_domain="` + trustDomain + `",what="displaced"}`); n != 1 {
		t.Errorf("%v places were taken over, want 1", n)
	}
	strangers[1].cancelled()
	strangers[2].cancelled()
	eventually(t, "nothing to be held", func() bool { return o.gauge("assay_event_log_bytes") == 0 })
}

func TestALogThatThereIsNoRoomForIsTheServersAffair(t *testing.T) {
	o := openRound(t, &asker{ask: []byte("credential")}, func(c *config.Config) { c.Limits.EventLogMiB = 1 })
	full, conn := bootLog(attest.MaxTPMEventLog), o.connect()
	a := o.machine(conn, full)
	must(t, a.challenge())
	a.sendEvidence()
	a.sendLog(full[:20*fullChunk])
	eventually(t, "the first to hold its chunks", func() bool { return o.gauge("assay_event_log_bytes") == 20*fullChunk })
	b := o.machine(conn, bootLog(fullChunk))
	must(t, b.challenge())
	b.sendEvidence()
	b.sendLog(bootLog(fullChunk))
	b.asked()
	// The first asks for more than there is. It waits longest at the only address
	// there is, so that the place to take over would be its own.
	a.sendLog(full[20*fullChunk:])
	_, err := a.stream.Recv()
	wantRefusal(t, err, codes.Unavailable, attest.Unavailable, "event_log_room")
	b.send(proof([]byte("p")))
	_, err = b.issued()
	must(t, err)
	eventually(t, "nothing to be held", func() bool { return o.gauge("assay_event_log_bytes") == 0 })
}

func TestTheSecondRoundIsAnsweredInTheSameStream(t *testing.T) {
	v := &asker{ask: []byte("a credential")}
	o := openRound(t, v)
	log := bootLog(fullChunk + 5)
	a := o.machine(o.connect(), log)
	must(t, a.challenge())
	a.sendEvidence()
	a.sendLog(log)
	if got := a.asked(); string(got) != "a credential" {
		t.Errorf("asked %q", got)
	}
	a.send(proof([]byte("the proof")))
	_, err := a.issued()
	must(t, err)
	v.mu.Lock()
	defer v.mu.Unlock()
	if string(v.proof) != "the proof" {
		t.Errorf("the verifier got %q", v.proof)
	}
}

func TestASecondRoundOutOfOrderIsRefused(t *testing.T) {
	v := &asker{ask: []byte("a credential")}
	o := openRound(t, v)
	conn := o.connect()
	for _, c := range []struct {
		name  string
		send  func(a *attempt)
		code  codes.Code
		kind  attest.Kind
		check string
	}{
		{"nothing", func(a *attempt) { must(t, a.stream.CloseSend()) }, codes.InvalidArgument, attest.Malformed, "protocol_order"},
		{"an empty message", func(a *attempt) { a.send(&assayv1.AttestRequest{}) }, codes.InvalidArgument, attest.Malformed, "protocol_order"},
		{"the evidence again", func(a *attempt) { a.sendEvidence() }, codes.InvalidArgument, attest.Malformed, "protocol_order"},
		{"a chunk of a log", func(a *attempt) { a.send(chunk([]byte("x"))) }, codes.InvalidArgument, attest.Malformed, "protocol_order"},
		{"hello again", func(a *attempt) {
			a.send(&assayv1.AttestRequest{Message: &assayv1.AttestRequest_Hello{Hello: a.hello}})
		}, codes.InvalidArgument, attest.Malformed, "protocol_order"},
		{"late", func(a *attempt) { o.clock.Advance(61 * time.Second); a.send(proof([]byte("p"))) }, codes.Aborted, attest.Stale, "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := o.machine(conn, nil)
			must(t, a.challenge())
			a.sendEvidence()
			a.asked()
			c.send(a)
			_, err := a.issued()
			wantRefusal(t, err, c.code, c.kind, c.check)
		})
	}
	t.Run("a client that leaves", func(t *testing.T) {
		a := o.machine(conn, nil)
		must(t, a.challenge())
		a.sendEvidence()
		a.asked()
		a.cancelled()
		eventually(t, "the attestation to be counted as aborted", func() bool {
			return o.counter(`assay_attestations_total{outcome="aborted",purpose="boot",tee="tpm2",trust_domain="`+trustDomain+`"}`) == 1
		})
	})
	eventually(t, "every place to be free", func() bool { return o.gauge("assay_unverified_in_flight") == 0 })
}

func TestASecondRoundThatIsNeverAnsweredIsNotWaitedFor(t *testing.T) {
	o := openRound(t, &asker{ask: []byte("a credential")})
	o.server.SetChallengeTTL(500 * time.Millisecond)
	a := o.machine(o.connect(), nil)
	must(t, a.challenge())
	a.sendEvidence()
	a.asked()
	if _, err := a.issued(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	eventually(t, "the place to be free", func() bool { return o.gauge("assay_unverified_in_flight") == 0 })
}

// Who is asked a second time can lose the place while the server waits.
func TestWhoDoesNotAnswerTheSecondRoundMakesRoomForOthers(t *testing.T) {
	o := openRound(t, &asker{ask: []byte("a credential")}, func(c *config.Config) { c.Limits.Unverified, c.Limits.UnverifiedPerAddress = 1, 1 })
	conn := o.connect()
	slow := o.machine(conn, nil)
	must(t, slow.challenge())
	slow.sendEvidence()
	slow.asked()
	a := o.machine(conn, nil)
	must(t, a.challenge())
	a.sendEvidence()
	a.asked()
	a.send(proof([]byte("p")))
	_, err := a.issued()
	must(t, err)
	if _, err := slow.issued(); err == nil {
		t.Error("two attestations had one place")
	}
}

func TestAVerifierAsksOnce(t *testing.T) {
	o := openRound(t, &asker{ask: []byte("a credential"), askTwice: true})
	a := o.machine(o.connect(), nil)
	must(t, a.challenge())
	a.sendEvidence()
	a.asked()
	a.send(proof([]byte("p")))
	_, err := a.issued()
	wantRefusal(t, err, codes.Internal, attest.Internal, "internal")
}
