package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// tpmDocument is the JSON of `evidence inspect` for a TPM's quote. Nothing in it is
// verified.
type tpmDocument struct {
	Quote        *tpmQuote            `json:"quote"`     // null when it cannot be read
	Malformed    *string              `json:"malformed"` // why
	AK           tpmKey               `json:"ak"`
	EK           *tpmKey              `json:"ek"`
	AKCert       *string              `json:"ak_certificate"` // subject
	EKCert       *string              `json:"ek_certificate"` // issuer: the subject is empty as a rule
	PCRs         map[int]attest.Bytes `json:"pcrs"`
	Certified    int                  `json:"certified"`
	EventLog     *tpmLog              `json:"event_log"`
	Endorsements []string             `json:"endorsements"` // subjects
}

// tpmQuote is a TPMS_ATTEST (Part 2, section 10.12.8).
type tpmQuote struct {
	Signer       attest.Bytes `json:"qualified_signer"`
	ExtraData    attest.Bytes `json:"extra_data"`
	Clock        uint64       `json:"clock"` // milliseconds
	ResetCount   uint32       `json:"reset_count"`
	RestartCount uint32       `json:"restart_count"`
	Safe         bool         `json:"safe"`
	Firmware     string       `json:"firmware"` // hex
	Banks        []tpmBank    `json:"selection"`
	Digest       attest.Bytes `json:"pcr_digest"`
}

type tpmBank struct {
	Bank string `json:"bank"`
	PCRs []int  `json:"pcrs"`
}

type tpmKey struct {
	Kind   string       `json:"kind"` // "RSA 2048"
	SHA256 attest.Bytes `json:"sha256"`
}

type tpmLog struct {
	Size   int      `json:"size"`
	Named  bool     `json:"named_by_body"` // the body holds its digest
	Events int      `json:"events"`
	Banks  []string `json:"banks"`
	Error  *string  `json:"error"`
}

func tpmInspect(ev attest.Evidence) (*inspection, error) {
	body, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		return nil, err
	}
	d := tpmDocument{AK: describeKey(body.AKPublic), PCRs: make(map[int]attest.Bytes), Certified: len(body.Certified), Endorsements: []string{}}
	if q, err := parseTPMQuote(body.Quote); err == nil {
		d.Quote = q
	} else {
		text := err.Error()
		d.Malformed = &text
	}
	if len(body.EKPublic) > 0 {
		k := describeKey(body.EKPublic)
		d.EK = &k
	}
	for i, v := range body.PCRs {
		d.PCRs[int(i)] = v
	}
	name := func(der []byte, issuer bool) *string {
		if len(der) == 0 {
			return nil
		}
		text := "unreadable"
		if e := lenientEndorsement("", trimDER(der)); e.cert != nil {
			if text = e.cert.Subject.String(); issuer || text == "" {
				text = e.cert.Issuer.String()
			}
		}
		return &text
	}
	d.AKCert, d.EKCert = name(body.AKCertificate, false), name(body.EKCertificate, true)
	for _, der := range ev.Endorsements {
		if n := name(der, false); n != nil {
			d.Endorsements = append(d.Endorsements, *n)
		}
	}
	d.EventLog = describeLog(ev.EventLog, body.EventLogDigest, d.Quote)
	in := &inspection{Document: d, print: func(p *cli.Page) { d.print(p) }, hints: tpmHints(d)}
	in.chain = climb(body.AKCertificate, lenientAll(ev.Endorsements))
	return in, nil
}

func lenientAll(ders [][]byte) []*endorsement {
	var out []*endorsement
	for _, der := range ders {
		out = append(out, lenientEndorsement("", der))
	}
	return out
}

func describeKey(area []byte) tpmKey {
	k := tpmKey{Kind: "unreadable"}
	key, err := publicKey(area)
	if err != nil {
		return k
	}
	if spki, err := x509.MarshalPKIXPublicKey(key); err == nil {
		sum := sha256.Sum256(spki)
		k.SHA256 = sum[:]
	}
	k.Kind = keyName(key)
	return k
}

// describeLog takes the bank of the quote, or the best that the log has.
func describeLog(log, named []byte, q *tpmQuote) *tpmLog {
	if len(log) == 0 && len(named) == 0 {
		return nil
	}
	sum := sha256.Sum256(log)
	out := &tpmLog{Size: len(log), Named: bytes.Equal(sum[:], named), Banks: []string{}}
	banks := []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA1}
	if q != nil && len(q.Banks) == 1 {
		b := bankValue(q.Banks[0].Bank)
		banks = []crypto.Hash{b.hash()}
	}
	for _, bank := range banks {
		l, err := eventlog.Events(log, bank)
		if err == nil {
			out.Events, out.Banks, out.Error = len(l.Events), l.Banks, nil
			return out
		}
		text := err.Error()
		out.Error = &text
	}
	return out
}

// parseTPMQuote reads a TPMS_ATTEST as far as people want to see it.
func parseTPMQuote(b []byte) (*tpmQuote, error) {
	bad := errors.New("this is no quote: want a TPMS_ATTEST and nothing behind it")
	take := func(n int) []byte {
		if n > len(b) {
			b = nil
			return make([]byte, n)
		}
		out := b[:n]
		b = b[n:]
		return out
	}
	u16 := func() int { return int(binary.BigEndian.Uint16(take(2))) }
	if len(b) < 6 || binary.BigEndian.Uint32(b) != 0xff544347 {
		return nil, errors.New("the magic number is not TPM_GENERATED_VALUE: a TPM did not make this")
	}
	if kind := binary.BigEndian.Uint16(b[4:]); kind != 0x8018 {
		return nil, fmt.Errorf("type %#x, want 0x8018, a quote", kind)
	}
	total := len(b)
	take(6)
	q := &tpmQuote{Banks: []tpmBank{}}
	q.Signer = slices.Clone(take(u16()))
	q.ExtraData = append(attest.Bytes{}, take(u16())...)
	q.Clock = binary.BigEndian.Uint64(take(8))
	q.ResetCount, q.RestartCount = binary.BigEndian.Uint32(take(4)), binary.BigEndian.Uint32(take(4))
	q.Safe = take(1)[0] == 1
	q.Firmware = fmt.Sprintf("%x", take(8))
	n := binary.BigEndian.Uint32(take(4))
	if n > 16 || total > 4096 {
		return nil, bad
	}
	for range n {
		bank := tpmBank{Bank: hashName(u16()), PCRs: []int{}}
		for i, bits := range take(int(take(1)[0])) {
			for bit := range 8 {
				if bits>>bit&1 == 1 {
					bank.PCRs = append(bank.PCRs, 8*i+bit)
				}
			}
		}
		q.Banks = append(q.Banks, bank)
	}
	q.Digest = slices.Clone(take(u16()))
	if len(b) != 0 || b == nil {
		return nil, bad
	}
	return q, nil
}

func hashName(id int) string {
	switch id {
	case 0x04:
		return "sha1"
	case 0x0b:
		return "sha256"
	case 0x0c:
		return "sha384"
	case 0x0d:
		return "sha512"
	}
	return fmt.Sprintf("%#04x", id)
}

func (d tpmDocument) print(p *cli.Page) {
	var facts []cli.Fact
	if d.Malformed != nil {
		facts = append(facts, cli.Fact{Name: "malformed", Value: *d.Malformed})
	}
	bank := "PCRs"
	if q := d.Quote; q != nil {
		for _, b := range q.Banks {
			var which []string
			for _, i := range b.PCRs {
				which = append(which, strconv.Itoa(i))
			}
			facts = append(facts, cli.Fact{Name: "selects", Value: b.Bank + ": " + strings.Join(which, " ")})
			bank = "PCRs (" + b.Bank + ")"
		}
		facts = append(facts,
			cli.Fact{Name: "extra data", Value: short(q.ExtraData)},
			cli.Fact{Name: "clock", Value: fmt.Sprintf("%d ms, safe: %s, reset %d, restart %d", q.Clock, yesNo(q.Safe), q.ResetCount, q.RestartCount)},
			cli.Fact{Name: "firmware", Value: q.Firmware},
			cli.Fact{Name: "pcr digest", Value: q.Digest.String()},
			cli.Fact{Name: "signer", Value: q.Signer.String()})
	}
	facts = append(facts, cli.Fact{Name: "ak", Value: d.AK.String()})
	if d.AKCert != nil {
		facts = append(facts, cli.Fact{Name: "ak certificate", Value: *d.AKCert})
	}
	if d.EK != nil {
		facts = append(facts, cli.Fact{Name: "ek", Value: d.EK.String()})
	}
	if d.EKCert != nil {
		facts = append(facts, cli.Fact{Name: "ek certificate", Value: "by " + *d.EKCert})
	}
	if d.Certified > 0 {
		facts = append(facts, cli.Fact{Name: "certified", Value: cli.Count(d.Certified, "key") + " in the TPM"})
	}
	if l := d.EventLog; l != nil {
		value := fmt.Sprintf("%s, %s (%s)", cli.Count(l.Size, "byte"), cli.Count(l.Events, "event"), strings.Join(l.Banks, ", "))
		switch {
		case l.Size == 0:
			value = "the body names one, and it is not here: --event-log FILE"
		case l.Error != nil:
			value = *l.Error
		case !l.Named:
			value += ", and not the one that the body names"
		}
		facts = append(facts, cli.Fact{Name: "event log", Value: value})
	}
	p.Facts(facts...)
	printRegisters(p, bank, d.PCRs)
}

// String is the key in words.
func (k tpmKey) String() string {
	if k.SHA256 == nil {
		return k.Kind
	}
	return fmt.Sprintf("%s, SHA-256 of the SPKI %s", k.Kind, k.SHA256)
}

// tpmHints say what would help evidence over a check.
func tpmHints(d tpmDocument) map[string]string {
	hints := map[string]string{
		"event_log_digest": "give the boot event log that belongs to this quote with --event-log FILE",
	}
	if d.AKCert != nil {
		hints["ak_chain"] = "give the cloud's root with --tpm-roots DIR (gce/ or azure/ in it), and certificates between with --endorsement FILE"
	}
	return hints
}
