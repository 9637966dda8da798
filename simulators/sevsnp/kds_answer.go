package sevsnp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/simulators/internal/keyfile"
)

// answer finds what a URL names: /{vcek|vlek}/v1/{line}/{what}.
func (k *KDS) answer(u *url.URL, faults []KDSFault) (answered, error) {
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	if len(parts) != 4 || parts[1] != "v1" || parts[0] != string(VCEK) && parts[0] != string(VLEK) {
		return refusal(http.StatusNotFound, "there is nothing at %.200q", u.Path), nil
	}
	key, what := SigningKey(parts[0]), parts[3]
	l, ok := k.authority.lines[parts[2]]
	if !ok {
		return refusal(http.StatusNotFound, "there is no product %.40q", parts[2]), nil
	}
	switch {
	case what == "cert_chain":
		body := slices.Concat(keyfile.EncodeCertificate(l.intermediate(key).cert.Raw), keyfile.EncodeCertificate(l.ark.cert.Raw))
		return answered{http.StatusOK, mediaPEM, body}, nil
	case what == "crl":
		der, err := k.crl(l, faults)
		return answered{http.StatusOK, mediaBinary, der}, err
	case key == VLEK:
		return refusal(http.StatusUnauthorized, "a VLEK's certificate is for the provider that it was made for"), nil
	default:
		return k.vcek(l.name, what, u.RawQuery, faults)
	}
}

// vcek answers with the certificate of a chip at a TCB.
func (k *KDS) vcek(line, id, query string, faults []KDSFault) (answered, error) {
	hwid, err := hex.DecodeString(id)
	size := 64
	if line == Turin.Line() {
		size = Turin.chipIDSize()
	}
	if err != nil || len(hwid) != size {
		return refusal(http.StatusBadRequest, "a hardware id of %s has %d hexadecimal digits", line, 2*size), nil
	}
	tcb, err := parseSPLs(line, query)
	if err != nil {
		return refusal(http.StatusBadRequest, "%v", err), nil
	}
	chip, ok := k.chips[line+"/"+hex.EncodeToString(hwid)]
	if !ok {
		return refusal(http.StatusNotFound, "there is no such chip"), nil
	}
	e := endorsement{product: chip.product, key: VCEK, tcb: tcb, chipID: chip.id}
	for _, f := range faults {
		if f.onVCEK != nil {
			der, err := f.onVCEK(k.authority, e)
			return answered{http.StatusOK, mediaBinary, der}, err
		}
	}
	n, err := k.authority.leaf(e)
	if err != nil {
		return answered{}, err
	}
	return answered{http.StatusOK, mediaBinary, slices.Clone(n.cert.Raw)}, nil
}

// parseSPLs reads a TCB from the parameters of a URL. Values are decimal, with
// or without leading zeros; one that is left out is 0. FMC is Turin's alone.
func parseSPLs(line, query string) (t TCB, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return t, errors.New("the parameters cannot be read")
	}
	to := map[string]*uint8{"blSPL": &t.Bootloader, "teeSPL": &t.TEE, "snpSPL": &t.SNP, "ucodeSPL": &t.Microcode}
	if line == Turin.Line() {
		to["fmcSPL"] = &t.FMC
	}
	for name, v := range values {
		p, ok := to[name]
		if !ok {
			return t, fmt.Errorf("%s has no parameter %.40q", line, name)
		}
		n, err := strconv.ParseUint(v[0], 10, 8)
		if err != nil || len(v) != 1 {
			return t, fmt.Errorf("%s: want one number from 0 to 255", name)
		}
		*p = uint8(n)
	}
	return t, nil
}

// crl returns the CRL of a line's root, which is the same for all its keys: the
// one that was published before, until half its life is over.
func (k *KDS) crl(l *line, faults []KDSFault) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.authority.now()
	if c, ok := k.crls[l.name]; ok && now.Before(c.renewal) {
		return slices.Clone(c.der), nil
	}
	p := k.authority.newCRLPlan()
	p.nextUpdate = p.thisUpdate.Add(k.options.CRLLifetime)
	for _, f := range faults {
		if f.onCRL != nil {
			if err := f.onCRL(k.authority, l, p); err != nil {
				return nil, err
			}
		}
	}
	der, err := p.make(l.ark)
	if err != nil {
		return nil, err
	}
	k.crls[l.name] = publishedCRL{der: der, renewal: p.thisUpdate.Add(k.options.CRLLifetime / 2)}
	return slices.Clone(der), nil
}
