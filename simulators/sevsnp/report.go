package sevsnp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
)

// ReportSize is the length of an attestation report, and signedSize that of the
// part which the signature covers (AMD publication 56860, table 23).
const (
	ReportSize = 0x4a0
	signedSize = 0x2a0
)

// Offsets in a report; those that only faults need are beside them.
const (
	offVersion           = 0x000
	offGuestSVN          = 0x004
	offPolicy            = 0x008
	offFamilyID          = 0x010
	offImageID           = 0x020
	offVMPL              = 0x030
	offAlgorithm         = 0x034
	offCurrentTCB        = 0x038
	offPlatform          = 0x040
	offKeyInfo           = 0x048
	offReserved4C        = 0x04c
	offReportData        = 0x050
	offMeasurement       = 0x090
	offHostData          = 0x0c0
	offIDKeyDigest       = 0x0e0
	offAuthorKeyDigest   = 0x110
	offReportID          = 0x140
	offReportIDMA        = 0x160
	offReportedTCB       = 0x180
	offCPUID             = 0x188
	offReserved18B       = 0x18b
	offChipID            = 0x1a0
	offCommittedTCB      = 0x1e0
	offFirmware          = 0x1e8
	offReserved1EB       = 0x1eb
	offCommittedFirmware = 0x1ec
	offReserved1EF       = 0x1ef
	offLaunchTCB         = 0x1f0
	offLaunchMitigation  = 0x1f8
	offCurrentMitigation = 0x200
	offReserved208       = 0x208
	offSignatureR        = 0x2a0
	offSignatureS        = 0x2e8
	offReserved330       = 0x330
)

// scalarSize is how much room R and S have, little-endian; P-384 needs 48 of it.
const scalarSize = 72

// fields are a report's contents before they are encoded.
type fields struct {
	version, guestSVN            uint32
	policy                       uint64
	familyID, imageID            [16]byte
	vmpl, algorithm              uint32
	platform                     uint64
	keyInfo                      uint32
	reportData                   [64]byte
	measurement                  [48]byte
	hostData                     [32]byte
	idKeyDigest, authorKeyDigest [48]byte
	reportID, reportIDMA         [32]byte
	cpuid                        [3]byte
	chipID                       [64]byte

	current, reported, committed, launch TCB
	firmware, committedFirmware          Firmware
	launchMitigation, currentMitigation  uint64
}

// encode writes the report, its signature still zero.
func (f *fields) encode(p Product) []byte {
	r := make([]byte, ReportSize)
	le := binary.LittleEndian
	le.PutUint32(r[offVersion:], f.version)
	le.PutUint32(r[offGuestSVN:], f.guestSVN)
	le.PutUint64(r[offPolicy:], f.policy)
	copy(r[offFamilyID:], f.familyID[:])
	copy(r[offImageID:], f.imageID[:])
	le.PutUint32(r[offVMPL:], f.vmpl)
	le.PutUint32(r[offAlgorithm:], f.algorithm)
	le.PutUint64(r[offPlatform:], f.platform)
	le.PutUint32(r[offKeyInfo:], f.keyInfo)
	copy(r[offReportData:], f.reportData[:])
	copy(r[offMeasurement:], f.measurement[:])
	copy(r[offHostData:], f.hostData[:])
	copy(r[offIDKeyDigest:], f.idKeyDigest[:])
	copy(r[offAuthorKeyDigest:], f.authorKeyDigest[:])
	copy(r[offReportID:], f.reportID[:])
	copy(r[offReportIDMA:], f.reportIDMA[:])
	copy(r[offCPUID:], f.cpuid[:])
	copy(r[offChipID:], f.chipID[:])
	for at, t := range map[int]TCB{
		offCurrentTCB: f.current, offReportedTCB: f.reported, offCommittedTCB: f.committed, offLaunchTCB: f.launch,
	} {
		b := t.bytes(p)
		copy(r[at:], b[:])
	}
	for at, v := range map[int]Firmware{offFirmware: f.firmware, offCommittedFirmware: f.committedFirmware} {
		r[at], r[at+1], r[at+2] = v.Build, v.Minor, v.Major
	}
	le.PutUint64(r[offLaunchMitigation:], f.launchMitigation)
	le.PutUint64(r[offCurrentMitigation:], f.currentMitigation)
	return r
}

// sign puts a signature over the signed part into the report. A key that is not
// on P-384 leaves no signature that could verify.
func sign(report []byte, key crypto.Signer) error {
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve.Params().BitSize > elliptic.P384().Params().BitSize {
		_, err := rand.Read(report[offSignatureR : offSignatureR+48])
		return err
	}
	sum := sha512.Sum384(report[:signedSize])
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err != nil {
		return fmt.Errorf("sevsnp: signing a report: %w", err)
	}
	putScalar(report[offSignatureR:], r)
	putScalar(report[offSignatureS:], s)
	return nil
}

// putScalar writes a number of the signature, little-endian.
func putScalar(to []byte, n *big.Int) {
	b := n.FillBytes(make([]byte, scalarSize))
	slices.Reverse(b)
	copy(to, b)
}
