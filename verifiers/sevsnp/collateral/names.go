package collateral

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// Files of the cache directory, one object each, in DER. The name says what it
// is; what the file holds must agree.
//
//	vcek.PRODUCT.HWID.TCB.der      HWID in hex: 128 digits, 16 on Turin
//	vlek.PRODUCT.CSP.TCB.der       CSP: the first 16 bytes of SHA-256(csp_id), in hex
//	ask.PRODUCT.SHA256.der         SHA-256 of the certificate, in hex; asvk likewise
//	crl.PRODUCT.SIGNINGKEY.der     the newest CRL; the only kind of file that is ever replaced
//	bundles.json                   which bundles were imported, see [Cache.Import]
//
// TCB is fmc-bl-tee-snp-ucode in decimal, without fmc before Turin.
const (
	fileVCEK = "vcek"
	fileVLEK = "vlek"
	fileASK  = "ask"
	fileASVK = "asvk"
	fileCRL  = "crl"

	chipIDSize = 64 // bytes in a report
)

// tcbKey is a TCB as a map key: fmc, bl, tee, snp, ucode.
type tcbKey [5]byte

func keyOf(t attest.TCB) tcbKey {
	k := tcbKey{0, t.Bootloader, t.TEE, t.SNP, t.Microcode}
	if t.FMC != nil {
		k[0] = *t.FMC
	}
	return k
}

// chipKey names a chip of a product line, or the VLEKs of one.
type chipKey [sha256.Size]byte

func chipOf(product string, hwid []byte) chipKey {
	return sha256.Sum256(append([]byte(fileVCEK+"\x00"+product+"\x00"), hwid...))
}

func vleksOf(product string) chipKey { return sha256.Sum256([]byte(fileVLEK + "\x00" + product)) }

// wanted is a key that a verifier may ask for, checked and in the form that the
// cache is indexed by.
type wanted struct {
	slot
	hwid []byte // VCEK: as in the certificate; nil for a VLEK
	tcb  attest.TCB
}

// want checks a verifier's key. It is false where there cannot be an
// endorsement: a masked chip, an unknown line, a TCB of the wrong layout.
func want(k sevsnp.Key) (wanted, bool) {
	w := wanted{slot: slot{k.Product, k.SigningKey}, tcb: k.TCB}
	turin := k.Product == sevsnp.Turin
	if (k.Product != sevsnp.Milan && k.Product != sevsnp.Genoa && !turin) || (k.TCB.FMC != nil) != turin {
		return wanted{}, false
	}
	switch k.SigningKey {
	case sevsnp.VLEK:
		return w, true
	case sevsnp.VCEK:
	default:
		return wanted{}, false
	}
	if len(k.ChipID) != chipIDSize || allZero(k.ChipID) {
		return wanted{}, false
	}
	w.hwid = k.ChipID
	if turin {
		w.hwid = k.ChipID[:8]
		if !allZero(k.ChipID[8:]) || allZero(w.hwid) {
			return wanted{}, false
		}
	}
	return w, true
}

func (w wanted) chip() chipKey {
	if w.signingKey == sevsnp.VLEK {
		return vleksOf(w.product)
	}
	return chipOf(w.product, w.hwid)
}

// id names the endorsement in memory.
func (w wanted) id() objectKey { return objectKey{w.chip(), keyOf(w.tcb)} }

// objectKey is a chip and a TCB.
type objectKey struct {
	chip chipKey
	tcb  tcbKey
}

func allZero(b []byte) bool {
	var or byte
	for _, x := range b {
		or |= x
	}
	return or == 0
}

func tcbName(product string, t attest.TCB) string {
	k := keyOf(t)
	if product == sevsnp.Turin {
		return fmt.Sprintf("%d-%d-%d-%d-%d", k[0], k[1], k[2], k[3], k[4])
	}
	return fmt.Sprintf("%d-%d-%d-%d", k[1], k[2], k[3], k[4])
}

func cspName(csp string) string {
	sum := sha256.Sum256([]byte(csp))
	return hex.EncodeToString(sum[:16])
}

// vcekFile is the name of a chip's endorsement.
func vcekFile(product string, hwid []byte, t attest.TCB) string {
	return fmt.Sprintf("%s.%s.%x.%s.der", fileVCEK, product, hwid, tcbName(product, t))
}

// fileOf is the name under which an object is kept.
func fileOf(o *Object) string {
	switch o.Kind {
	case VCEK:
		return vcekFile(o.Product, o.ChipID, *o.TCB)
	case VLEK:
		return fmt.Sprintf("%s.%s.%s.%s.der", fileVLEK, o.Product, cspName(o.CSPID), tcbName(o.Product, *o.TCB))
	case ASK, ASVK:
		return fmt.Sprintf("%s.%s.%x.der", o.Kind, o.Product, sha256.Sum256(o.DER))
	case CRL:
		return crlFile(slot{o.Product, o.SigningKey})
	}
	return ""
}

func crlFile(at slot) string { return fmt.Sprintf("%s.%s.%s.der", fileCRL, at.product, at.signingKey) }

// fileName is a name that was taken apart.
type fileName struct {
	kind    string
	product string
	middle  string // hwid, csp, digest or signing key
	tcb     tcbKey
}

// fileNames matches every name of an object, and nothing else.
var fileNames = regexp.MustCompile(
	`^(vcek|vlek|ask|asvk|crl)\.(milan|genoa|turin)\.([0-9a-f]{16,128}|vcek|vlek)(?:\.((?:[0-9]{1,3}-){3,4}[0-9]{1,3}))?\.der$`)

// parseName takes a file's name apart; false is for names that are not ours.
func parseName(s string) (n fileName, ok bool) {
	m := fileNames.FindStringSubmatch(s)
	if m == nil {
		return fileName{}, false
	}
	n = fileName{kind: m[1], product: m[2], middle: m[3]}
	turin := n.product == sevsnp.Turin
	size := map[string]int{fileVCEK: 128, fileVLEK: 32, fileASK: 64, fileASVK: 64, fileCRL: 4}[n.kind]
	if n.kind == fileVCEK && turin {
		size = 16
	}
	if len(n.middle) != size || (n.kind == fileVCEK || n.kind == fileVLEK) != (m[4] != "") {
		return fileName{}, false
	}
	if m[4] == "" {
		return n, true
	}
	if n.tcb, ok = parseTCB(m[4], turin); !ok {
		return fileName{}, false
	}
	return n, true
}

func parseTCB(s string, turin bool) (k tcbKey, ok bool) {
	i := 1
	if turin {
		i = 0
	}
	for part := range strings.SplitSeq(s, "-") {
		v, err := strconv.ParseUint(part, 10, 8)
		if err != nil || i >= len(k) || strconv.FormatUint(v, 10) != part {
			return tcbKey{}, false
		}
		k[i] = byte(v)
		i++
	}
	return k, i == len(k)
}

// unhex decodes what fileNames matched as hex of even length.
func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}
