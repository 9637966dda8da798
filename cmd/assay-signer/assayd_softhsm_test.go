//go:build cgo

package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// The whole way with a token: its CA key issues to an enclave, over restarts of
// every process, and is in none of them.
func TestAssaydIssuesWithACAKeyThatIsInATokenAndInNoProcess(t *testing.T) {
	o := newOffice(t)
	hsm := o.token()
	o.authorities("hsm", hsm, "x509-authority") // and a spare
	held := o.held()
	i := newIssuer(o)

	// Before the signer runs: nothing to mend in assayd's configuration.
	for _, command := range []string{"run", "check"} {
		code, _, errs := i.try("assayd", command, "--data-dir", o.path("d"))
		if code != 7 || !strings.Contains(errs, "signer.sock") || !strings.Contains(errs, "hint: is assay-signer running") {
			t.Errorf("assayd %s without its signer: exit code %d, want 7\n%s", command, code, errs)
		}
	}
	i.noKeyFiles()

	s := o.run()
	i.tool("assayd", "check", "--data-dir", o.path("d"))
	assayd := i.serve()
	dir, agent := i.enclave()
	leaf := i.fetch(dir)
	first := signedBy(leaf, held)
	if !strings.HasPrefix(first, "x509-ca-") {
		t.Fatalf("the SVID is signed by %q, not by the token's key", first)
	}
	i.verify(dir)
	agent.stop(syscall.SIGTERM)
	i.noKeyFiles()
	if !strings.Contains(s.said(), "key="+first) || !strings.Contains(s.said(), "purpose=verifier") {
		t.Errorf("the signer did not sign for it:\n%s", s.said())
	}

	// The next authority is made of the spare; without one, the error is the command
	// that makes it.
	prepared := i.tool("assay", "authority", "prepare", "x509", "--admin", o.path("d/admin.sock"), "--output", "json")
	spare := ""
	for name := range held {
		if id, ok := strings.CutPrefix(name, "x509-ca-"); ok && name != first && strings.Contains(prepared, id) {
			spare = name
		}
	}
	if spare == "" || strings.Contains(prepared, strings.TrimPrefix(first, "x509-ca-")) {
		t.Errorf("not made of the spare:\n%s", prepared)
	}
	if code, _, errs := i.try("assay", "authority", "prepare", "verifier", "--admin", o.path("d/admin.sock")); code == 0 || !strings.Contains(errs, "authority_spare") || !strings.Contains(errs, "assay-signer keys create verifier-") {
		t.Errorf("without a spare: exit code %d\n%s", code, errs)
	}
	i.noKeyFiles()

	// Both restart, and go on with the same key.
	assayd.stop(syscall.SIGTERM)
	s.stop(syscall.SIGTERM)
	s = o.run()
	assayd = i.serve()
	if again := signedBy(i.svid(), held); again != first {
		t.Errorf("after the restarts %q signs, and not %q", again, first)
	}

	// The signer is killed: an enclave that boots waits, and is served when the signer
	// is back, by the same assayd.
	s.stop(syscall.SIGKILL)
	dir, agent = i.enclave()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("agent:\n%s\nassayd:\n%s", agent.said(), assayd.said())
		}
	})
	i.eventually("the agent hears that the server cannot serve it", func() bool { return strings.Contains(agent.said(), "unavailable") })
	if code, out, _ := i.try("assay-agent", "fetch", "--data-dir", o.path(dir), "--timeout", "500ms"); code == 0 {
		t.Errorf("an SVID without a signer:\n%s", out)
	}

	// A wrong PIN is a clear error, and sent once.
	o.write("pin", "wrong-pin-9999\n")
	o.refused(2, "refused the PIN (0xA0: CKR_PIN_INCORRECT)", "run")
	if code, _, errs := i.try("assayd", "check", "--data-dir", o.path("d")); code != 7 || strings.Contains(errs, "wrong-pin") {
		t.Errorf("assayd check beside a signer with a wrong PIN: exit code %d\n%s", code, errs)
	}
	o.write("pin", pin+"\n")
	o.must("check")

	o.run()
	if got := signedBy(i.fetch(dir), held); got != first {
		t.Errorf("after the signer was away %q signs, and not %q", got, first)
	}
	select {
	case <-assayd.done:
		t.Errorf("assayd ended while its signer was away:\n%s", assayd.said())
	default:
	}
	if strings.Contains(assayd.said()+agent.said(), pin) {
		t.Error("a log holds the PIN")
	}
	b, err := os.ReadFile(o.path("d/assayd.yaml"))
	must(t, err)
	if strings.Contains(string(b), pin) {
		t.Error("assayd's configuration holds the PIN")
	}
}
