package tpm

import (
	"crypto/sha256"
	"encoding/binary"
)

// events is the boot in the order in which it happens.
func (b Boot) events() ([]event, error) {
	w := &writer{}
	w.firmware(b)
	if err := w.secureBoot(b); err != nil {
		return nil, err
	}
	w.bootOptions(b)
	w.separators()
	if err := w.loader(b); err != nil {
		return nil, err
	}
	w.hashed(5, evAction, []byte("Exit Boot Services Invocation"))
	w.hashed(5, evAction, []byte("Exit Boot Services Returned with Success"))
	return w.events, nil
}

// content is the simulated bytes of a file or a piece of firmware.
func content(part, of string) []byte { return []byte("assay simulated " + part + "\x00" + of) }

// writer collects events.
type writer struct{ events []event }

// hashed is an event whose data are what was hashed.
func (w *writer) hashed(pcr, kind uint32, data []byte) { w.add(pcr, kind, data, data) }

// add is an event that describes what was hashed.
func (w *writer) add(pcr, kind uint32, measured, data []byte) {
	w.events = append(w.events, event{pcr: pcr, kind: kind, measured: measured, data: data})
}

// firmware measures itself into PCR0, its configuration into PCR1, and the code
// of devices into PCR2 (Firmware Profile, section 3.3.4).
func (w *writer) firmware(b Boot) {
	if b.Locality != 0 {
		w.add(0, evNoAction, nil, append([]byte("StartupLocality\x00"), b.Locality))
	}
	w.hashed(0, evSCRTMVersion, utf16z(b.Firmware))
	blob := content("firmware volume", b.Firmware)
	at := binary.LittleEndian.AppendUint64(nil, 0xff800000)
	w.add(0, evFirmwareBlob, blob, binary.LittleEndian.AppendUint64(at, uint64(len(blob))))
	w.add(0, evPostCode, content("POST code", b.Firmware), []byte("POST CODE"))
	w.add(1, evHandoffTables, content("SMBIOS tables", b.Firmware), handoffTables())
	rom := content("option ROM", b.Firmware)
	w.add(2, evBootDriver, rom, imageLoad(len(rom), pciPath(2)))
}

// handoffTables is EFI_HANDOFF_TABLE_POINTERS with the SMBIOS 3 table.
func handoffTables() []byte {
	g := newGUID(0xf2fd1544, 0x9794, 0x4a2c, [8]byte{0x99, 0x2e, 0xe5, 0xbb, 0xcf, 0x20, 0xe3, 0x94})
	out := binary.LittleEndian.AppendUint64(nil, 1)
	out = append(out, g[:]...)
	return binary.LittleEndian.AppendUint64(out, 0x7fe00000)
}

// secureBoot measures the variables that decide which programs may start, into
// PCR7 (section 3.3.4.8).
func (w *writer) secureBoot(b Boot) error {
	on := byte(1)
	if b.SecureBootOff {
		on = 0
	}
	var lists [3][]byte
	for i, name := range []string{certPK, certKEK, certDB} {
		der, err := uefiCertificate(name)
		if err != nil {
			return err
		}
		lists[i] = signatureList(listX509(), der)
	}
	var revoked [][]byte
	for _, name := range []string{"shim 12", "grub 2.02", "bootmgr 6"} {
		sum := sha256.Sum256(content("revoked program", name))
		revoked = append(revoked, sum[:])
	}
	w.hashed(7, evVariableDriver, variable(globalVariable(), "SecureBoot", []byte{on}))
	w.hashed(7, evVariableDriver, variable(globalVariable(), "PK", lists[0]))
	w.hashed(7, evVariableDriver, variable(globalVariable(), "KEK", lists[1]))
	w.hashed(7, evVariableDriver, variable(securityDatabase(), "db", lists[2]))
	w.hashed(7, evVariableDriver, variable(securityDatabase(), "dbx", signatureList(listSHA256(), revoked...)))
	return nil
}

// bootOptions measures which program is to start (section 3.3.4.2: only the
// variable's content is hashed).
func (w *writer) bootOptions(b Boot) {
	path := `\EFI\linux\shimx64.efi`
	if b.Loader == SystemdBoot {
		path = `\EFI\systemd\systemd-bootx64.efi`
	}
	order := []byte{0, 0}
	w.add(1, evVariableBoot, order, variable(globalVariable(), "BootOrder", order))
	option := binary.LittleEndian.AppendUint32(nil, 1) // LOAD_OPTION_ACTIVE
	option = binary.LittleEndian.AppendUint16(option, uint16(len(filePath(path))))
	option = append(append(option, utf16z("linux")...), filePath(path)...)
	w.add(1, evVariableBoot, option, variable(globalVariable(), "Boot0000", option))
}

// separators end what the firmware measures before the first boot option, in PCR
// 0 to 7 (section 3.3.2.2).
func (w *writer) separators() {
	w.hashed(4, evAction, []byte("Calling EFI Application from Boot Option"))
	for pcr := range uint32(8) {
		w.hashed(pcr, evSeparator, []byte{0, 0, 0, 0})
	}
}

// authority measures into PCR7 whose key let a program start.
func (w *writer) authority(b Boot, g guid, name, cert string) error {
	if b.SecureBootOff {
		return nil
	}
	der, err := uefiCertificate(cert)
	if err != nil {
		return err
	}
	w.hashed(7, evVariableAuthority, variable(g, name, signature(der)))
	return nil
}

// start measures a program into PCR4. The hash is Authenticode's on a real
// machine, here of all bytes.
func (w *writer) start(program []byte, path string) {
	w.add(4, evBootApplication, program, imageLoad(len(program), filePath(path)))
}

// disk measures the partition table, UEFI_GPT_DATA, into PCR5.
func (w *writer) disk() {
	gpt := make([]byte, 92)
	copy(gpt, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	gpt = binary.LittleEndian.AppendUint64(gpt, 2)
	for i, name := range []string{"EFI", "root"} {
		entry := make([]byte, 128)
		g := newGUID(0x50415254, uint16(i), 0, [8]byte{})
		copy(entry, g[:])
		copy(entry[56:], utf16le(name))
		gpt = append(gpt, entry...)
	}
	w.hashed(5, evGPT, gpt)
}

func (w *writer) loader(b Boot) error {
	if b.Loader == SystemdBoot {
		return w.systemd(b)
	}
	return w.grub(b)
}

// grub is shim, GRUB and a kernel, as Debian and Fedora measure them.
func (w *writer) grub(b Boot) error {
	if err := w.authority(b, securityDatabase(), "db", certDB); err != nil {
		return err
	}
	w.disk()
	w.start(content("shim", "15.8"), `\EFI\linux\shimx64.efi`)
	// Shim measures its lists of keys into PCR14, and its revocation level and key
	// into PCR7.
	for _, list := range []string{"MokList", "MokListX", "MokListTrusted"} {
		w.add(14, evIPL, content("shim variable", list), append([]byte(list), 0))
	}
	w.hashed(7, evVariableAuthority, variable(shimLock(), "SbatLevel", []byte("sbat,1,2024010900\nshim,4\n")))
	if err := w.authority(b, shimLock(), "Shim", certShim); err != nil {
		return err
	}
	w.start(content("GRUB", "2.12"), `\EFI\linux\grubx64.efi`)
	// GRUB hashes files into PCR9, with the path beside it, and commands into PCR8,
	// with a word before them that is not hashed; each ends in a zero.
	file := func(path string) { w.add(9, evIPL, content("file "+path, b.Image), append([]byte(path), 0)) }
	say := func(prefix, line string) { w.add(8, evIPL, []byte(line), append([]byte(prefix+line), 0)) }
	kernel, initrd := "/boot/vmlinuz-"+b.Image, "/boot/initrd.img-"+b.Image
	line := "BOOT_IMAGE=" + kernel + " " + b.CommandLine
	file("(hd0,gpt1)/EFI/linux/grub.cfg")
	file("(hd0,gpt2)/boot/grub/grub.cfg")
	say("grub_cmd: ", "set default=0")
	say("grub_cmd: ", "set timeout=5")
	say("grub_cmd: ", "menuentry 'linux' {")
	say("grub_cmd: ", "linux "+kernel+" "+b.CommandLine)
	file("(hd0,gpt2)" + kernel)
	say("kernel_cmdline: ", kernel+" "+b.CommandLine)
	say("grub_cmd: ", "initrd "+initrd)
	file("(hd0,gpt2)" + initrd)
	w.start(content("file "+kernel, b.Image), kernel)
	w.stub(line, content("file "+initrd, b.Image))
	return nil
}

// Tags of the events that Linux's EFI stub measures into PCR9 (drivers/firmware/efi/libstub).
const (
	tagLoadOptions = 0x8f3b22ec
	tagInitrd      = 0x8f3b22ed
)

// stub is the kernel's own EFI stub: it hashes its command line in UTF-16 and
// the initrd.
func (w *writer) stub(line string, initrd []byte) {
	tagged := func(tag uint32, name string) []byte {
		out := binary.LittleEndian.AppendUint32(nil, tag)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(name)+1))
		return append(append(out, name...), 0)
	}
	w.add(9, evEventTag, utf16z(line), tagged(tagLoadOptions, "LOADED_IMAGE::LoadOptions"))
	w.add(9, evEventTag, initrd, tagged(tagInitrd, "Linux initrd"))
}

// systemd is systemd-boot and a unified kernel image.
func (w *writer) systemd(b Boot) error {
	if err := w.authority(b, securityDatabase(), "db", certDB); err != nil {
		return err
	}
	w.disk()
	w.start(content("systemd-boot", "256"), `\EFI\systemd\systemd-bootx64.efi`)
	w.start(content("unified kernel image", b.Image), `\EFI\Linux\`+b.Image+`.efi`)
	// systemd-stub hashes the name of each section of the image, then its content,
	// into PCR11; the log has the name in UTF-16.
	for _, section := range []struct {
		name    string
		content []byte
	}{
		{".linux", content("file vmlinuz", b.Image)},
		{".osrel", []byte("ID=simulated\nVERSION_ID=" + b.Image + "\n")},
		{".cmdline", []byte(b.CommandLine + "\x00")},
		{".initrd", content("file initrd", b.Image)},
		{".uname", []byte("6.12.0-" + b.Image)},
		{".sbat", []byte("sbat,1,SBAT Version,sbat,1\nsystemd-stub,1,The systemd Developers,systemd,256\n")},
	} {
		w.add(11, evIPL, append([]byte(section.name), 0), utf16z(section.name))
		w.add(11, evIPL, section.content, utf16z(section.name))
	}
	w.hashed(12, evIPL, utf16z(b.CommandLine))
	w.start(content("file vmlinuz", b.Image), `\EFI\Linux\`+b.Image+`.efi`)
	w.stub(b.CommandLine, content("file initrd", b.Image))
	return nil
}
