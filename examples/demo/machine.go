package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

const (
	machineImage = "books"
	machineRoot  = "tpm-root.pem"
)

// hasTPM reports whether the machine with a TPM can take part: its TPM is swtpm.
func hasTPM() bool {
	_, err := exec.LookPath("swtpm")
	return err == nil
}

// startMachine turns the simulated machine on, and keeps its manufacturer's root.
func (d *demo) startMachine(ctx context.Context) error {
	if !d.tpm {
		return nil
	}
	p, err := d.start("teesim-machine", nil, "teesim", "tpm", "run", "--authority", d.path("tpm-maker"), "--state", d.path("machine"), "--ek", "p256",
		"--image", machineImage, "--socket", d.path("books.nsm"), "--event-log", d.path("books.log"))
	if err != nil {
		return err
	}
	if err := p.says(ctx, "listening on"); err != nil {
		return err
	}
	root, err := d.run(ctx, nil, "teesim", "tpm", "root", "--authority", d.path("tpm-maker"))
	if err != nil {
		return err
	}
	return os.WriteFile(d.path(machineRoot), []byte(root), 0o600)
}

// machineWorkload is the machine's part of the policy: which boot loader, kernel
// and secure-boot keys it started with, and whose machine it is.
func (d *demo) machineWorkload(ctx context.Context) (string, error) {
	if !d.tpm {
		return "", nil
	}
	out, err := d.run(ctx, nil, "teesim", "tpm", "measurements", "--image", machineImage, "--output", "json")
	if err != nil {
		return "", err
	}
	var m struct {
		PCRs map[string]map[string]string `json:"pcrs"` // by bank and index
	}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		return "", err
	}
	if out, err = d.run(ctx, nil, "teesim", "tpm", "ek", "--state", d.path("machine"), "--output", "json"); err != nil {
		return "", err
	}
	ek, pcr4 := regexp.MustCompile(`[0-9a-f]{64}`).FindString(out), m.PCRs["sha256"]["4"]
	if ek == "" || pcr4 == "" {
		return "", fmt.Errorf("teesim printed other measurements than expected:\n%s", out)
	}
	return fmt.Sprintf(`  - name: books
    tee: tpm2
    mode: enforce
    match:
      pcr4: {eq: %q} # boot loader and kernel
      secure_boot: {eq: true}
      ek: {eq: %q} # whose machine it is: ownership
      tpm_cleared: {eq: false} # nobody was at it since it was enrolled
    issue:
      - spiffe_id: "spiffe://{td}/shop/books"
        x509_ttl: 1h
`, pcr4, ek), nil
}

// machine enrols the machine with a TPM, and then boots something else on it.
func (d *demo) machine(ctx context.Context) error {
	if !d.tpm {
		d.chapter("A machine with a TPM: left out, because swtpm is not installed")
		d.say("`apt-get install swtpm` brings the software TPM that this chapter runs on.")
		return nil
	}
	d.chapter("A machine with a TPM 2.0 boots: its quote, and a second round that ties the quote's key to its chip")
	agent, err := d.startAgent(ctx, "books")
	if err != nil {
		return err
	}
	if err := agent.until(ctx, "it holds an SVID", func() bool { _, err := d.fetch(ctx, "books"); return err == nil }); err != nil {
		return err
	}
	if _, err := d.run(ctx, nil, "assay-agent", "fetch", "--socket", d.path("books.sock"), "--write", d.path("books-svid"), "--no-keys"); err != nil {
		return err
	}
	out, err := d.assay(ctx, "svid", "verify", "--bundle", d.path("books-svid/bundle.0.pem"), "--verifier-root", d.path("assay/verifier-root.pem"),
		"--verifier-keys", d.path("verifier-keys.cbor"), "--allow-simulated", "--tee", "tpm2", "--owned", d.path("books-svid/svid.0.pem"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(out, "\n\n")
	d.quote("assay svid verify … --allow-simulated --tee tpm2 --owned books-svid/svid.0.pem", first, nil)
	return d.reboot(ctx, agent)
}

// reboot starts another kernel on the machine: same TPM, same keys, same agent.
func (d *demo) reboot(ctx context.Context, agent *process) error {
	if err := d.stop(agent); err != nil {
		return err
	}
	if _, err := d.run(ctx, nil, "teesim", "tpm", "reset", "--socket", d.path("books.nsm"), "--image", machineImage+"-patched"); err != nil {
		return err
	}
	agent, err := d.startAgent(ctx, "books")
	if err != nil {
		return err
	}
	reference := regexp.MustCompile(`as-[a-z0-9]{10}`)
	if err := agent.until(ctx, "it is denied", func() bool { return reference.MatchString(agent.out.String()) }); err != nil {
		return err
	}
	denied := reference.FindString(agent.out.String())
	out, err := d.assay(ctx, "ledger", "show", "--admin", d.path("assay/admin.sock"), denied)
	if err != nil {
		return err
	}
	d.say("The machine reboots into another kernel: same TPM, same keys, same agent. The quote tells:")
	_, books, _ := strings.Cut(out, "\nWorkload books")
	lines := strings.SplitN(books, "\n", 6)
	d.quote("assay ledger show "+denied, "[…]\nWorkload books"+strings.Join(lines[:min(len(lines), 5)], "\n")+"\n[…]", nil)
	return nil
}
