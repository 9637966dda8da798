package sevsnp

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Bits of the guest policy (AMD publication 56860, section 4.3). Bit 17 must be
// set; the lowest 16 are the least ABI that the guest accepts.
const (
	PolicySMT          uint64 = 1 << 16
	PolicyReserved     uint64 = 1 << 17
	PolicyMigrateMA    uint64 = 1 << 18
	PolicyDebug        uint64 = 1 << 19
	PolicySingleSocket uint64 = 1 << 20
	DefaultPolicy             = PolicySMT | PolicyReserved
)

// Bits of PLATFORM_INFO.
const (
	PlatformSMT        uint64 = 1 << 0
	PlatformTSME       uint64 = 1 << 1
	PlatformECC        uint64 = 1 << 2
	PlatformAliasCheck uint64 = 1 << 5
	DefaultPlatform           = PlatformSMT | PlatformECC | PlatformAliasCheck
)

// Launch says how a guest is started, and on what firmware. The zero Launch is
// an unnamed guest on a well kept host.
type Launch struct {
	Version     uint32 // of the reports, 2 to 5; 0 = the product's usual
	Measurement []byte // 48 bytes; nil = that of MeasurementFromSeed("")
	HostData    []byte // up to 32 bytes, like the following filled up with zeros
	Policy      uint64 // 0 = DefaultPolicy
	Platform    uint64 // 0 = DefaultPlatform

	IDKeyDigest, AuthorKeyDigest []byte // up to 48 bytes
	FamilyID, ImageID            []byte // up to 16 bytes
	GuestSVN                     uint32
	VMPL                         uint32 // the level at which the asking software runs
	ReportID                     []byte // 32 bytes; nil = random

	// The platform's versions. Nil is what the product's hosts usually have for
	// Current, and Current for the others.
	Current, Reported, Committed, LaunchTCB *TCB
	Firmware, CommittedFirmware             *Firmware

	SigningKey SigningKey // "" = VCEK
	CSP        string     // VLEK: the provider, "" = DefaultCSP
	MaskChipID bool       // the host has the firmware leave CHIP_ID zero
	// CRL has the guest hand out a current CRL beside the certificates.
	CRL bool
}

// Guest is a running virtual machine that can ask its AMD-SP for reports. It is
// safe for concurrent use.
type Guest struct {
	chip         *Chip
	fields       fields
	key          crypto.Signer // signs reports
	endorsements [][]byte
	table        []byte
	faults       []Fault
}

// plan is what the certificates beside a report are made from.
type plan struct {
	chip   *Chip
	launch *Launch
	line   *line // whose certificates the leaf stands under

	endorsement endorsement
	leaf        blueprint
	key         crypto.Signer // certified by the leaf, signs reports
	reportKey   crypto.Signer // signs reports instead
	custom      bool          // the leaf is not as the authority would make it

	ask    *blueprint // nil = the line's own
	askKey crypto.Signer
	crl    *crlPlan // nil = none
	after  []func(*plan, [][]byte) ([][]byte, error)
}

// Launch starts a guest on the chip. Faults apply to every report of it, and to
// the certificates beside; one that makes no sense for this chip is an error.
func (c *Chip) Launch(l Launch, faults ...Fault) (*Guest, error) {
	if err := l.fill(c.product); err != nil {
		return nil, err
	}
	for _, f := range faults {
		if !f.Applies(c.product, l.SigningKey) {
			return nil, fmt.Errorf("sevsnp: fault %s says nothing about a %s on %s", f.Name, l.SigningKey, c.product)
		}
		if f.onLaunch != nil {
			f.onLaunch(&l, c.product)
		}
	}
	g := &Guest{chip: c, faults: slices.Clone(faults)}
	if err := g.describe(&l); err != nil {
		return nil, err
	}
	return g, g.endorse(&l)
}

// fill replaces what a Launch leaves open.
func (l *Launch) fill(p Product) error {
	if l.Version == 0 {
		l.Version = p.defaultVersion()
	}
	if l.Measurement == nil {
		l.Measurement = MeasurementFromSeed("")
	}
	if l.Policy == 0 {
		l.Policy = DefaultPolicy
	}
	if l.Platform == 0 {
		l.Platform = DefaultPlatform
	}
	if l.Current == nil {
		t := p.DefaultTCB()
		l.Current = &t
	}
	for _, t := range []**TCB{&l.Reported, &l.Committed, &l.LaunchTCB} {
		if *t == nil {
			*t = l.Current
		}
	}
	if l.Firmware == nil {
		f := p.defaultFirmware()
		l.Firmware = &f
	}
	if l.CommittedFirmware == nil {
		l.CommittedFirmware = l.Firmware
	}
	if l.SigningKey == "" {
		l.SigningKey = VCEK
	}
	if l.CSP == "" {
		l.CSP = DefaultCSP
	}
	if l.ReportID == nil {
		l.ReportID = make([]byte, 32)
		if _, err := rand.Read(l.ReportID); err != nil {
			return err
		}
	}
	return l.validate()
}

func (l *Launch) validate() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("sevsnp: "+format, args...))
		}
	}
	refuse(l.Version < 2 || l.Version > 5, "report version %d: want 2 to 5", l.Version)
	refuse(l.VMPL > 3, "VMPL %d: want 0 to 3", l.VMPL)
	refuse(l.SigningKey != VCEK && l.SigningKey != VLEK, "signing key %.20q: want vcek or vlek", l.SigningKey)
	refuse(len(l.Measurement) != 48, "the measurement has %d bytes, want 48", len(l.Measurement))
	refuse(len(l.ReportID) != 32, "the report id has %d bytes, want 32", len(l.ReportID))
	refuse(len(l.HostData) > 32, "the host data have %d bytes, want at most 32", len(l.HostData))
	refuse(len(l.IDKeyDigest) > 48 || len(l.AuthorKeyDigest) > 48, "a key digest has more than 48 bytes")
	refuse(len(l.FamilyID) > 16 || len(l.ImageID) > 16, "the family or image id has more than 16 bytes")
	return errors.Join(errs...)
}

// Bits of the field that AMD calls KEY_INFO.
const (
	keyInfoAuthorKey = 1 << 0
	keyInfoVLEK      = 1 << 2
)

// describe fills in what every report of the guest says.
func (g *Guest) describe(l *Launch) error {
	f := &g.fields
	p := g.chip.product
	f.version, f.guestSVN, f.policy, f.vmpl, f.algorithm = l.Version, l.GuestSVN, l.Policy, l.VMPL, 1
	f.platform = l.Platform
	copy(f.familyID[:], l.FamilyID)
	copy(f.imageID[:], l.ImageID)
	copy(f.measurement[:], l.Measurement)
	copy(f.hostData[:], l.HostData)
	copy(f.idKeyDigest[:], l.IDKeyDigest)
	copy(f.authorKeyDigest[:], l.AuthorKeyDigest)
	copy(f.reportID[:], l.ReportID)
	for i := range f.reportIDMA { // no migration agent
		f.reportIDMA[i] = 0xff
	}
	if len(l.AuthorKeyDigest) > 0 {
		f.keyInfo |= keyInfoAuthorKey
	}
	if l.Version >= 3 {
		f.cpuid = p.cpuid()
	}
	if l.Version >= 5 {
		f.launchMitigation, f.currentMitigation = 0xb, 0xb
	}
	switch {
	case l.SigningKey == VLEK: // such reports have no chip id, as EC2's show
		f.keyInfo |= keyInfoVLEK
	case !l.MaskChipID:
		copy(f.chipID[:], g.chip.id)
	}
	f.current, f.reported, f.committed, f.launch = *l.Current, *l.Reported, *l.Committed, *l.LaunchTCB
	f.firmware, f.committedFirmware = *l.Firmware, *l.CommittedFirmware
	return nil
}

// endorse makes the certificates.
func (g *Guest) endorse(l *Launch) error {
	a := g.chip.authority
	pl := &plan{
		chip: g.chip, launch: l, line: a.lines[g.chip.product.Line()],
		endorsement: endorsement{product: g.chip.product, key: l.SigningKey, tcb: *l.Reported},
	}
	if l.SigningKey == VLEK {
		pl.endorsement.csp = l.CSP
	} else {
		pl.endorsement.chipID = g.chip.id
	}
	var err error
	b, key, err := a.blueprint(pl.endorsement)
	if err != nil {
		return err
	}
	pl.leaf, pl.key = b, key
	if l.CRL {
		pl.crl = a.newCRLPlan()
	}
	for _, f := range g.faults {
		if f.onPlan != nil {
			pl.custom = true
			if err := f.onPlan(pl); err != nil {
				return fmt.Errorf("sevsnp: fault %s: %w", f.Name, err)
			}
		}
	}
	if err := pl.make(g); err != nil {
		return err
	}
	g.table, err = pl.table(g.endorsements)
	return err
}

// make carries a plan out.
func (pl *plan) make(g *Guest) error {
	issuer := pl.line.intermediate(pl.endorsement.key)
	if pl.ask != nil {
		key := pl.askKey
		if key == nil {
			key = issuer.key
		}
		n, err := pl.ask.issue(pl.line.ark, key)
		if err != nil {
			return err
		}
		issuer = n
	}
	leaf, err := pl.certificate(issuer)
	if err != nil {
		return err
	}
	g.key = pl.key
	if pl.reportKey != nil {
		g.key = pl.reportKey
	}
	out := [][]byte{leaf, slices.Clone(issuer.cert.Raw), slices.Clone(pl.line.ark.cert.Raw)}
	if pl.crl != nil {
		der, err := pl.crl.make(pl.line.ark)
		if err != nil {
			return err
		}
		out = append(out, der)
	}
	for _, f := range pl.after {
		if out, err = f(pl, out); err != nil {
			return err
		}
	}
	g.endorsements = out
	return nil
}

// certificate is the leaf: the authority's, or one that a fault has changed.
func (pl *plan) certificate(issuer *node) ([]byte, error) {
	if pl.custom {
		return pl.leaf.encode(issuer, pl.key)
	}
	n, err := pl.chip.authority.leaf(pl.endorsement)
	if err != nil {
		return nil, err
	}
	return slices.Clone(n.cert.Raw), nil
}

// Chip is where the guest runs.
func (g *Guest) Chip() *Chip { return g.chip }

// ReportID is what names the guest in its reports until it ends, 32 bytes.
func (g *Guest) ReportID() []byte { return slices.Clone(g.fields.reportID[:]) }

// Report asks the AMD-SP for a report with the given data, at the guest's level.
func (g *Guest) Report(data [64]byte) ([]byte, error) {
	return g.report(data, g.fields.vmpl)
}

// report writes and signs a report for a level.
func (g *Guest) report(data [64]byte, vmpl uint32) ([]byte, error) {
	f := g.fields
	f.reportData, f.vmpl = data, vmpl
	p := g.chip.product
	for _, x := range g.faults {
		if x.onFields != nil {
			x.onFields(&f, p)
		}
	}
	r := f.encode(p)
	for _, x := range g.faults {
		if x.onRaw != nil {
			x.onRaw(r, p)
		}
	}
	if err := sign(r, g.key); err != nil {
		return nil, err
	}
	for _, x := range g.faults {
		if x.onSigned != nil {
			r = x.onSigned(r)
		}
	}
	return r, nil
}

// Endorsements returns, each in DER, the certificate of the key that signs the
// reports, that of the ASK or ASVK, the ARK's, and the CRL where the guest has
// one.
func (g *Guest) Endorsements() [][]byte {
	out := make([][]byte, len(g.endorsements))
	for i, e := range g.endorsements {
		out[i] = slices.Clone(e)
	}
	return out
}

// CertTable returns the same in the layout in which a host gives it to a guest
// with an extended report.
func (g *Guest) CertTable() []byte { return slices.Clone(g.table) }

// ExtendedReport returns a report and the certificate table behind it.
func (g *Guest) ExtendedReport(data [64]byte) ([]byte, error) {
	r, err := g.Report(data)
	if err != nil {
		return nil, err
	}
	return append(r, g.table...), nil
}

// crlPlan is a CRL before it is made.
type crlPlan struct {
	thisUpdate, nextUpdate time.Time
	revoked                []*big.Int
	issuer                 *node // instead of the ARK
	flip                   bool  // break the signature
}

// A CRL is a day old when the simulator first shows it, and lives half a year.
const (
	crlAge      = 24 * time.Hour
	crlLifetime = 180 * 24 * time.Hour
)

func (a *Authority) newCRLPlan() *crlPlan {
	t := a.now().UTC().Truncate(time.Second).Add(-crlAge)
	return &crlPlan{thisUpdate: t, nextUpdate: t.Add(crlLifetime)}
}

func (c *crlPlan) make(ark *node) ([]byte, error) {
	if c.issuer != nil {
		ark = c.issuer
	}
	var entries []x509.RevocationListEntry
	for _, s := range c.revoked {
		entries = append(entries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: c.thisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		SignatureAlgorithm: x509.SHA384WithRSAPSS, Number: big.NewInt(c.thisUpdate.Unix()),
		ThisUpdate: c.thisUpdate, NextUpdate: c.nextUpdate, RevokedCertificateEntries: entries,
	}, ark.cert, ark.key)
	if err != nil {
		return nil, fmt.Errorf("sevsnp: making a CRL: %w", err)
	}
	if c.flip {
		der[len(der)-1] ^= 1
	}
	return der, nil
}
