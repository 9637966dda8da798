package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// hardware makes the simulated PKI and starts three enclaves' security modules.
func (d *demo) hardware(ctx context.Context) error {
	d.chapter("Hardware, simulated: three Nitro enclaves of one AWS account, an SEV-SNP guest, a machine with a TPM")
	root, err := d.run(ctx, nil, "teesim", "nitro", "root", "--authority", d.path("aws"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("aws-root.pem"), []byte(root), 0o600); err != nil {
		return err
	}
	for _, e := range []struct{ name, image string }{{"orders", "orders"}, {"inventory", "inventory"}, {"debug", "orders"}} {
		args := []string{
			"nitro", "run", "--authority", d.path("aws"), "--socket", d.path(e.name + ".nsm"), "--image", e.image, "--role", role,
		}
		if e.name == "debug" {
			args = append(args, "--debug")
		}
		p, err := d.start("teesim-"+e.name, nil, "teesim", args...)
		if err != nil {
			return err
		}
		if err := p.says(ctx, "listening on"); err != nil {
			return err
		}
	}
	p, err := d.start("teesim-vault", nil, "teesim", "sevsnp", "run", "--socket", d.path("vault.nsm"), "--image", guestImage,
		"--product", guestProduct, "--chip", guestChip, "--crl")
	if err != nil {
		return err
	}
	if err := p.says(ctx, "listening on"); err != nil {
		return err
	}
	if root, err = d.run(ctx, nil, "teesim", "sevsnp", "roots"); err != nil {
		return err
	}
	if err := os.WriteFile(d.path("amd-roots.pem"), []byte(root), 0o600); err != nil {
		return err
	}
	if err := d.startMachine(ctx); err != nil {
		return err
	}
	d.say("orders and inventory run their images; a third enclave runs the image of orders in debug mode,")
	d.say("in which the host can read its memory. vault is an AMD SEV-SNP guest on a machine of our own.")
	return nil
}

// server writes a policy and starts assayd.
func (d *demo) server(ctx context.Context) error {
	d.chapter("assayd starts: a new trust domain, a new CA, a policy")
	data := d.path("assay")
	init := []string{
		"init", "--trust-domain", trustDomain, "--data-dir", data,
		"--simulated-root", d.path("aws-root.pem"), "--simulated-snp-roots", d.path("amd-roots.pem"),
	}
	tpm := ""
	if d.tpm {
		init = append(init, "--simulated-tpm-root", d.path(machineRoot))
		tpm = "tpm:\n  simulated_root: " + d.path(machineRoot) + "\n"
	}
	if _, err := d.run(ctx, nil, "assayd", init...); err != nil {
		return err
	}
	if err := d.writePolicy(ctx, 1); err != nil {
		return err
	}
	var err error
	if d.address, err = freeAddress(); err != nil {
		return err
	}
	if err := os.WriteFile(d.path("assay/assayd.yaml"), []byte(fmt.Sprintf(`trust_domain: %s
data_dir: .
policy: policy.yaml
listen: %s
admin_socket: admin.sock
metrics_listen: ""
reattest_spread: 1s
authorities: {propagation: 1s, refresh_hint: 1s} # a day and five minutes, elsewhere
nitro:
  simulated_root: %s
sevsnp:
  simulated_roots: %s
%s`, trustDomain, d.address, d.path("aws-root.pem"), d.path("amd-roots.pem"), tpm)), 0o600); err != nil {
		return err
	}
	if out, err := d.run(ctx, nil, "assayd", "check", "--config", d.path("assay/assayd.yaml")); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	p, err := d.start("assayd", nil, "assayd", "run", "--config", d.path("assay/assayd.yaml"))
	if err != nil {
		return err
	}
	if err := p.until(ctx, "it answers", func() bool { return dials(d.address) }); err != nil {
		return err
	}
	pem, err := d.run(ctx, nil, "assayd", "bootstrap", "export", "--config", d.path("assay/assayd.yaml"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("bootstrap.pem"), []byte(pem), 0o600); err != nil {
		return err
	}
	out, err := d.assay(ctx, "policy", "check", d.path("assay/policy.yaml"))
	if err != nil {
		return err
	}
	d.quote("assay policy check policy.yaml", out, nil)
	return nil
}

// enclaves starts an agent beside each of the two good enclaves.
func (d *demo) enclaves(ctx context.Context) error {
	d.chapter("Two enclaves boot: each agent attests and gets its SVID")
	for _, name := range []string{"orders", "inventory"} {
		p, err := d.startAgent(ctx, name)
		if err != nil {
			return err
		}
		if err := p.until(ctx, "it holds an SVID", func() bool { _, err := d.fetch(ctx, name); return err == nil }); err != nil {
			return err
		}
	}
	s, err := d.fetch(ctx, "orders")
	if err != nil {
		return err
	}
	d.serial = s.Serial
	if _, err := d.run(ctx, nil, "assay-agent", "fetch", "--socket", d.path("orders.sock"), "--write", d.path("orders-svid"), "--no-keys"); err != nil {
		return err
	}
	if out, err := d.assay(ctx, "bundle", "export", "--admin", d.path("assay/admin.sock"), "--verifier-keys", d.path("verifier-keys.cbor")); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	out, err := d.assay(ctx, "svid", "verify", "--bundle", d.path("orders-svid/bundle.0.pem"), "--verifier-root", d.path("assay/verifier-root.pem"),
		"--verifier-keys", d.path("verifier-keys.cbor"), "--allow-simulated", d.path("orders-svid/svid.0.pem"))
	if err != nil {
		return err
	}
	d.quote("assay svid verify --bundle bundle.0.pem --verifier-root verifier-root.pem --verifier-keys verifier-keys.cbor --allow-simulated svid.0.pem", out, nil)
	d.say("The status is warning and not affirming because no hardware vouched for it; without --allow-simulated")
	d.say("it is refused. On real Nitro hardware the same policy earns affirming.")
	return nil
}

// talk runs inventory, which demands orders' PCR0, and orders, which knows
// nothing of Assay.
func (d *demo) talk(ctx context.Context) error {
	d.chapter("orders calls inventory over mutual TLS; inventory demands orders' PCR0")
	m, err := d.measurements(ctx, "orders")
	if err != nil {
		return err
	}
	p, err := d.start("inventory", []string{endpoint(d.path("inventory.sock"))}, "inventory",
		"--client-domain", trustDomain, "--client-pcr0", m["pcr0"], "--accept-simulated",
		"--verifier-root", d.path("assay/verifier-root.pem"), "--verifier-keys", d.path("verifier-keys.cbor"))
	if err != nil {
		return err
	}
	if err := p.says(ctx, "serves on "); err != nil {
		return err
	}
	d.shopkeeper = p
	d.shop = strings.TrimSpace(p.out.String()[strings.LastIndex(p.out.String(), " ")+1:])
	out, err := d.order(ctx, "orders")
	if err != nil {
		return err
	}
	d.quote("orders --item tea --count 3", out, nil)
	return nil
}

// refuseOtherImage lets a workload with a good SVID, but another image, call.
func (d *demo) refuseOtherImage(ctx context.Context) error {
	d.chapter("The same call from another image is refused, though its SVID is good")
	_, err := d.order(ctx, "inventory")
	if err == nil {
		return errors.New("inventory served a client that it must refuse")
	}
	if err := d.shopkeeper.says(ctx, "refused a client: "); err != nil {
		return err
	}
	d.quote("orders --item tea --count 3     # with inventory's own SVID", lastLine(err.Error()), nil)
	d.say("inventory says why:")
	d.quote("tail -1 inventory.log", lastLine(d.shopkeeper.out.String()), nil)
	return nil
}

// otherTEE boots the SEV-SNP guest: another vendor's hardware, the same road.
func (d *demo) otherTEE(ctx context.Context) error {
	d.chapter("An SEV-SNP guest boots: other hardware, the same road")
	p, err := d.startAgent(ctx, "vault")
	if err != nil {
		return err
	}
	if err := p.until(ctx, "it holds an SVID", func() bool { _, err := d.fetch(ctx, "vault"); return err == nil }); err != nil {
		return err
	}
	if _, err := d.run(ctx, nil, "assay-agent", "fetch", "--socket", d.path("vault.sock"), "--write", d.path("vault-svid"), "--no-keys"); err != nil {
		return err
	}
	out, err := d.assay(ctx, "svid", "verify", "--bundle", d.path("vault-svid/bundle.0.pem"), "--verifier-root", d.path("assay/verifier-root.pem"),
		"--verifier-keys", d.path("verifier-keys.cbor"), "--allow-simulated", "--tee", "amd-sev-snp", "--owned", d.path("vault-svid/svid.0.pem"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(out, "\n\n")
	_, tail, _ := strings.Cut(out, "Trustworthiness (AR4SI)")
	d.quote("assay svid verify … --allow-simulated --tee amd-sev-snp --owned vault-svid/svid.0.pem", first+"\n\nTrustworthiness (AR4SI)"+tail, nil)
	return nil
}

// guest is what a policy says of the SEV-SNP guest, its machine and firmware.
type guest struct{ measurement, chipID, floor string }

var guestFacts = regexp.MustCompile(`(?s)measurement: \{eq: "(\w+)"\}.*reported_tcb: (\{gte: .*?\}\}\}).*chip_id: \{eq: "(\w+)"\}`)

func (d *demo) guest(ctx context.Context) (guest, error) {
	out, err := d.run(ctx, nil, "teesim", "sevsnp", "measurements", "--image", guestImage, "--product", guestProduct, "--chip", guestChip)
	if err != nil {
		return guest{}, err
	}
	m := guestFacts.FindStringSubmatch(out)
	if m == nil {
		return guest{}, fmt.Errorf("teesim printed other measurements than expected:\n%s", out)
	}
	return guest{measurement: m[1], floor: m[2], chipID: m[3]}, nil
}

// refuseDebug starts the agent of the debug enclave, and explains its denial.
func (d *demo) refuseDebug(ctx context.Context) error {
	d.chapter("The enclave in debug mode is denied: same image, same role")
	p, err := d.startAgent(ctx, "debug")
	if err != nil {
		return err
	}
	reference := regexp.MustCompile(`as-[a-z0-9]{10}`)
	if err := p.until(ctx, "it is denied", func() bool { return reference.MatchString(p.out.String()) }); err != nil {
		return err
	}
	d.denied = reference.FindString(p.out.String())
	d.say("The agent learns: kind denied, check policy, reference %s. The operator learns why:", d.denied)
	out, err := d.assay(ctx, "ledger", "show", "--admin", d.path("assay/admin.sock"), d.denied)
	if err != nil {
		return err
	}
	why, _, _ := strings.Cut(out, "\nWorkload inventory")
	d.quote("assay ledger show "+d.denied, strings.TrimSpace(why)+"\n[then the other workload, the claims and every PCR]", nil)
	return nil
}

// renew publishes a policy that concerns orders, which makes its agent attest
// again, and shows that service goes on with new keys.
func (d *demo) renew(ctx context.Context) error {
	d.chapter("A new policy revision: the agent that it concerns attests again, with a new key")
	before, err := d.fetch(ctx, "inventory")
	if err != nil {
		return err
	}
	if err := d.writePolicy(ctx, 2); err != nil {
		return err
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		s, err := d.fetch(ctx, "orders")
		if err == nil && s.Serial != d.serial {
			d.say("orders renewed: serial %s became %s.", short(d.serial), short(s.Serial))
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("orders did not renew within 20 s of the new policy (serial %s, last error: %s)", short(d.serial), errText(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	after, err := d.fetch(ctx, "inventory")
	if err != nil {
		return err
	}
	if after.Serial != before.Serial {
		return errors.New("inventory renewed, though nothing changed for it")
	}
	d.say("Nothing changed for inventory: its agent was left alone.")
	out, err := d.order(ctx, "orders")
	if err != nil {
		return err
	}
	d.quote("orders --item tea --count 3", out, nil)
	return nil
}

// audit reads the ledger and checks its chain.
func (d *demo) audit(ctx context.Context) error {
	d.chapter("What the ledger says")
	for _, args := range [][]string{{"ledger", "list"}, {"ledger", "verify"}} {
		out, err := d.assay(ctx, append(args, "--admin", d.path("assay/admin.sock"))...)
		if err != nil {
			return err
		}
		// What the demo itself looked at is on record too, and would fill the page.
		d.quote("assay "+strings.Join(args, " "), out, func(line string) bool {
			return !strings.Contains(line, "  admin ") || !strings.Contains(line, "  Get") && !strings.Contains(line, "  List")
		})
	}
	d.say("(Reads by administrators are recorded as well, and left out above.)")
	return nil
}

// assay runs the command that a person would.
func (d *demo) assay(ctx context.Context, args ...string) (string, error) {
	return d.run(ctx, nil, "assay", args...)
}

// order runs the client with the SVID of the named enclave.
func (d *demo) order(ctx context.Context, who string) (string, error) {
	return d.run(ctx, []string{endpoint(d.path(who + ".sock"))}, "orders", "--server", d.shop, "--server-id", inventoryID, "--item", "tea", "--count", "3")
}

func (d *demo) startAgent(ctx context.Context, name string) (*process, error) {
	file := d.path(name + "-agent.yaml")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		init := []string{"init", "--server", d.address, "--bootstrap-root", d.path("bootstrap.pem"), "--socket", d.path(name + ".sock"), "--config", file}
		switch name {
		case "vault":
			init = append(init, "--snp-socket", d.path("vault.nsm"))
		case "books":
			init = append(init, "--tpm-socket", d.path("books.nsm"), "--event-log", d.path("books.log"))
		default:
			init = append(init, "--nsm-socket", d.path(name+".nsm"))
		}
		if _, err := d.run(ctx, nil, "assay-agent", init...); err != nil {
			return nil, err
		}
	}
	return d.start("agent-"+name, nil, "assay-agent", "run", "--config", file)
}

// fetched is what `assay-agent fetch --output json` says of an SVID.
type fetched struct{ Serial string }

func (d *demo) fetch(ctx context.Context, name string) (fetched, error) {
	out, err := d.run(ctx, nil, "assay-agent", "fetch", "--socket", d.path(name+".sock"), "--output", "json")
	if err != nil {
		return fetched{}, err
	}
	var all struct {
		SVIDs []fetched `json:"svids"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return fetched{}, err
	}
	if len(all.SVIDs) == 0 {
		return fetched{}, errors.New("no SVID")
	}
	return all.SVIDs[0], nil
}

// measurements are an image's registers, as a build of it would print them.
func (d *demo) measurements(ctx context.Context, image string) (map[string]string, error) {
	out, err := d.run(ctx, nil, "teesim", "nitro", "measurements", "--image", image, "--role", role, "--output", "json")
	if err != nil {
		return nil, err
	}
	var m struct {
		PCRs map[string]string `json:"pcrs"`
	}
	err = json.Unmarshal([]byte(out), &m)
	return m.PCRs, err
}
