package policy

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// tpmModel makes claims of machines with a TPM. Registers and what was measured
// into them have the length of the quote's bank; a certificate names the make of
// the TPM; the clock is there as a whole or not at all.
var tpmModel = &model{
	blank: func() attest.Claims {
		return attest.Claims{Platform: attest.TPM2, TPM: &attest.TPM{PCRs: map[int]attest.Bytes{}, AK: make(attest.Bytes, 34)}}
	},
	put:   func(c *attest.Claims, f *field, v value, ok bool) bool { return putTPM(c.TPM, f, v, ok) },
	tiers: []string{"pcr4", "pcr7", "pcr9", "pcr11", "secure_boot", "boot.loaders", "boot.grub_files", "boot.unified.linux", "clock.firmware"},
	hubs:  []string{"bank", "ek_certified", "clock.firmware"},
	fits:  fitsTPM,
	always: func(name string) bool {
		return slices.Contains([]string{"bank", "ek_certified", "ak_trust", "key_residency", "tpm_cleared", "safe"}, name)
	},
	spelled: func(name string, v value) bool {
		if name == "ak_trust" {
			return v != attest.AKOperator // is for offline tools, never in an attestation
		}
		n, err := strconv.ParseUint(string(v), 10, 64)
		return name != "cloud.project_number" || err == nil && strconv.FormatUint(n, 10) == string(v) && n > 0
	},
	vary: func(c *attest.Claims, n int, held func(string) bool) bool {
		h := sha256.Sum256(fmt.Appendf(nil, "key %d", n))
		switch t := c.TPM; {
		case t.EK != nil && !held("ek"):
			t.EK = h[:]
		case t.EK != nil:
			return n == 0
		case t.Cloud != nil && !held("cloud.instance_id"):
			t.Cloud.InstanceID = strconv.Itoa(n + 1)
		case t.Cloud != nil:
			return n == 0
		default:
			t.AK = append([]byte{0, 0x0b}, h[:]...)
		}
		return true
	},
}

func fitsTPM(hub func(string) (value, bool), f *field, v value, ok bool) bool {
	bank, quoted := hub("bank")
	switch f.kind.(type) {
	case register:
		return !ok || quoted && bankOf(len(v)) == string(bank)
	case registerList:
		return !ok || quoted && !slices.ContainsFunc(v.split(), func(d value) bool { return bankOf(len(d)) != string(bank) })
	}
	switch f.name {
	case "manufacturer", "model", "version":
		certified, _ := hub("ek_certified")
		return !ok || certified == yes
	case "clock.reset_count", "clock.restart_count":
		_, there := hub("clock.firmware")
		return ok == there
	}
	return true
}

func putTPM(t *attest.TPM, f *field, v value, ok bool) bool {
	if i, err := strconv.Atoi(strings.TrimPrefix(f.name, "pcr")); err == nil {
		delete(t.PCRs, i)
		if ok {
			t.PCRs[i] = attest.Bytes(v)
		}
		return true
	}
	if part, is := strings.CutPrefix(f.name, "cloud."); is {
		return putCloud(t, part, v, ok)
	}
	if part, is := strings.CutPrefix(f.name, "clock."); is {
		return putClock(t, part, v, ok)
	}
	if part, is := strings.CutPrefix(f.name, "boot."); is || f.name == "secure_boot" {
		if !is {
			part = f.name
		}
		return putBoot(t, part, v, ok)
	}
	text := map[string]*string{"bank": &t.Bank, "ek_inventory": &t.EKInventory, "ak_trust": &t.AKTrust, "key_residency": &t.KeyResidency}
	if c := t.EKCertificate; c != nil {
		text["manufacturer"], text["model"], text["version"] = &c.Manufacturer, &c.Model, &c.Version
	}
	if p := text[f.name]; p != nil {
		*p = string(v)
		return (v != "") == ok
	}
	switch f.name {
	case "manufacturer", "model", "version":
		return !ok // without a certificate
	case "ek":
		t.EK = nil
		if ok {
			t.EK = attest.Bytes(v)
		}
		return true
	case "ek_certified":
		if ok && v == yes && t.EKCertificate == nil {
			t.EKCertificate = &attest.EKCertificate{}
		}
		if !ok || v != yes {
			t.EKCertificate = nil
		}
		return ok
	case "tpm_cleared":
		t.Cleared = ok && v == yes
		return ok
	case "safe":
		t.Safe = ok && v == yes
		return ok
	}
	return false
}

func putCloud(t *attest.TPM, part string, v value, ok bool) bool {
	if t.Cloud == nil {
		if !ok {
			return true
		}
		t.Cloud = &attest.CloudInstance{}
	}
	if part == "project_number" {
		n, err := strconv.ParseUint(string(v), 10, 64)
		t.Cloud.ProjectNumber = n
		return !ok || err == nil && n > 0
	}
	p := map[string]*string{
		"provider": &t.Cloud.Provider, "project_id": &t.Cloud.ProjectID, "zone": &t.Cloud.Zone,
		"instance_id": &t.Cloud.InstanceID, "instance_name": &t.Cloud.InstanceName,
	}[part]
	if p == nil {
		return false
	}
	*p = string(v)
	return (v != "") == ok
}

func putClock(t *attest.TPM, part string, v value, ok bool) bool {
	if !ok {
		if part == "firmware" {
			t.Clock = nil
		}
		return t.Clock == nil
	}
	if t.Clock == nil {
		t.Clock = &attest.TPMClock{}
	}
	switch part {
	case "firmware":
		t.Clock.Firmware = v.flags()
	case "reset_count":
		t.Clock.ResetCount = uint32(bigEndian(v))
	case "restart_count":
		t.Clock.RestartCount = uint32(bigEndian(v))
	}
	return true
}

func putBoot(t *attest.TPM, part string, v value, ok bool) bool {
	if t.Boot == nil {
		if !ok {
			return true
		}
		t.Boot = &attest.MeasuredBoot{Replayed: []int{}}
	}
	b := t.Boot
	list := func() (out []attest.Bytes) {
		for _, d := range v.split() {
			out = append(out, attest.Bytes(d))
		}
		return out
	}
	set := func(m *map[string]attest.Bytes, keys ...string) bool {
		for _, k := range keys {
			delete(*m, k)
		}
		if !ok {
			return true
		}
		if *m == nil {
			*m = map[string]attest.Bytes{}
		}
		(*m)[keys[0]] = attest.Bytes(v)
		return true
	}
	switch part {
	case "secure_boot":
		b.SecureBoot = nil
		if ok {
			on := v == yes
			b.SecureBoot = &on
		}
		return true
	case "firmware":
		b.Firmware = string(v)
		return (v != "") == ok
	case "command_line":
		b.CommandLine = string(v)
		return (v != "") == ok
	case "loaders":
		b.Loaders = list()
		return true
	case "grub_files":
		b.GRUBFiles = list()
		return true
	}
	if section, is := strings.CutPrefix(part, "unified."); is {
		return set(&b.Unified, "."+section, section)
	}
	if name, is := strings.CutPrefix(part, "keys."); is {
		return set(&b.Keys, map[string]string{"pk": "PK", "kek": "KEK", "db": "db", "dbx": "dbx"}[name])
	}
	return false
}
