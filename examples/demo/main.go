// The demo runs Assay's real programs on this machine, as separate processes,
// and tells what happens: two simulated enclaves earn identities and talk over
// mutual TLS, so do a guest and a machine of other make, one that runs in debug
// mode is refused, and an SVID is renewed.
//
// Only the hardware is simulated: it signs under roots of its own. Server, verifier, policy, ledger, CA, agent and relying party are
// what production runs. `make demo` builds all of it and starts this.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	keep := flag.Bool("keep", false, "leave the demo's directory behind, to look around in")
	flag.Parse()
	// A reader who has seen enough (`make demo | head`) must not leave servers
	// behind: without this, the next line printed would end the demo at once.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *keep); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "\nthe demo failed: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool) (err error) {
	d, err := newDemo()
	if err != nil {
		return err
	}
	defer func() {
		if stopErr := d.stopAll(); err == nil {
			err = stopErr
		}
		if !keep && err == nil {
			err = os.RemoveAll(d.dir)
		}
	}()
	for _, chapter := range []func(context.Context) error{
		d.hardware, d.server, d.enclaves, d.talk, d.refuseOtherImage, d.otherTEE, d.machine, d.refuseDebug, d.renew, d.token, d.rotate, d.ban, d.audit,
	} {
		if err := chapter(ctx); err != nil {
			return fmt.Errorf("%w\n(its files are in %s)", err, d.dir)
		}
	}
	d.chapter("Everything stops")
	if err := d.stopAll(); err != nil {
		return err
	}
	d.say("Server, agents, services and simulators ended with exit code 0.")
	d.closing(keep)
	return nil
}

// demo is the state that the chapters hand on.
type demo struct {
	*story
	bin, dir string
	address  string // of assayd
	shop     string // address of inventory
	running  []*process
	tpm      bool // there is a software TPM to run a machine on

	shopkeeper *process // inventory
	denied     string   // reference of the refusal
	serial     string   // of the first SVID of orders
}

const (
	trustDomain = "simulated.demo.assay.example"
	role        = "arn:aws:iam::123456789012:role/shop"
	inventoryID = "spiffe://" + trustDomain + "/shop/inventory"

	guestImage, guestProduct, guestChip = "vault", "genoa", "rack-4"
)

func newDemo() (*demo, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Short, because a unix socket's path holds about 100 bytes.
	dir, err := os.MkdirTemp("", "assay-demo-")
	if err != nil {
		return nil, err
	}
	d := &demo{story: &story{w: os.Stdout, begin: time.Now()}, bin: filepath.Dir(self), dir: dir, tpm: hasTPM()}
	d.say("Assay demo. Simulated: the hardware (Nitro Security Modules, an AMD secure processor, a machine whose TPM is")
	d.say("software) and its vendors' roots. Real: everything else.")
	d.say("Files: %s", dir)
	return d, nil
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

func (d *demo) closing(keep bool) {
	d.say("")
	d.say("What was simulated: the Nitro Security Modules, the AMD secure processor, the TPM's chip (swtpm is a real TPM, in software)")
	d.say("and the PKIs behind them. No hardware vouched for anything here, and the trust domain's name, its CA and every attestation")
	d.say("result say so.")
	if keep {
		d.say("Look around in %s: assay.db, policy.yaml and the logs are there; try", d.dir)
		d.say("  bin/assay ledger list --db %s", d.path("assay/assay.db"))
	} else {
		d.say("To look around afterwards: bin/demo --keep. To build an enclave of your own: docs/guides/first-enclave.md")
	}
}
