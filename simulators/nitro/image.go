package nitro

import (
	"crypto/sha512"
	"maps"
	"slices"
)

// pcrSize is the length of a register: SHA-384.
const pcrSize = sha512.Size384

// Image is an enclave image's measurements, as nitro-cli prints them when it
// builds the image file.
type Image struct {
	Name string
	PCR0 []byte // the image file
	PCR1 []byte // kernel and boot ramdisk
	PCR2 []byte // the application
	PCR8 []byte // the certificate that signed the image; nil = unsigned
}

// ImageFromSeed derives plausible measurements from a name: the same name gives
// the same values everywhere, other names give others. PCR1 is the same for
// every name, as it is for real images that were built with one kernel.
func ImageFromSeed(name string) Image {
	return Image{
		Name: name,
		PCR0: extend(make([]byte, pcrSize), seeded("image", name)),
		PCR1: extend(make([]byte, pcrSize), seeded("kernel", "")),
		PCR2: extend(make([]byte, pcrSize), seeded("application", name)),
		PCR8: extend(make([]byte, pcrSize), seeded("signer", name)),
	}
}

func seeded(part, name string) []byte {
	sum := sha512.Sum384([]byte("assay simulated enclave\x00" + part + "\x00" + name))
	return sum[:]
}

// extend is the register operation: SHA-384(old value ‖ data).
func extend(old, data []byte) []byte {
	sum := sha512.Sum384(append(slices.Clone(old), data...))
	return sum[:]
}

// RolePCR is PCR3: SHA-384 over 48 zero bytes and the ARN of the IAM role of the
// parent instance (AWS Nitro Enclaves user guide, "Where to get an enclave's
// measurements").
func RolePCR(roleARN string) []byte { return extend(make([]byte, pcrSize), []byte(roleARN)) }

// InstancePCR is PCR4: the same over the parent's instance id. The module ids
// and PCR4 of real documents confirm it.
func InstancePCR(instanceID string) []byte { return extend(make([]byte, pcrSize), []byte(instanceID)) }

// Launch says how an enclave is started.
type Launch struct {
	Image      Image
	Role       string // ARN of the parent instance's role; "" = the instance has none, and PCR3 is zero
	InstanceID string // "i-…"; "" = a random one
	// Debug starts the enclave with its console attached. The device then measures
	// nothing of the image: PCR0, PCR1, PCR2 and PCR8 stay zero.
	Debug bool
}

// PCRs returns the sixteen registers that are locked when the enclave has
// started, 48 bytes each. The caller owns the map.
func (l Launch) PCRs() map[int][]byte {
	out := make(map[int][]byte, lockedAtLaunch)
	for i := range lockedAtLaunch {
		out[i] = make([]byte, pcrSize)
	}
	if !l.Debug {
		maps.Copy(out, map[int][]byte{0: l.Image.PCR0, 1: l.Image.PCR1, 2: l.Image.PCR2})
		if l.Image.PCR8 != nil {
			out[8] = l.Image.PCR8
		}
	}
	if l.Role != "" {
		out[3] = RolePCR(l.Role)
	}
	if l.InstanceID != "" {
		out[4] = InstancePCR(l.InstanceID)
	}
	for i, v := range out {
		p := make([]byte, pcrSize)
		copy(p, v)
		out[i] = p
	}
	return out
}

// lockedAtLaunch is how many registers the device locks before the enclave's
// first instruction; the enclave may extend and lock the others.
const lockedAtLaunch = 16
