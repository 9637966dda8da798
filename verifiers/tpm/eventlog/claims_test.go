package eventlog_test

import (
	"bytes"
	"crypto"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// The machine booted without secure boot; its root wants the log to say otherwise.
func TestSecureBootIsClaimedOnlyBeyondDoubt(t *testing.T) {
	enabled := config(global, "SecureBoot", 1)
	off := with(aBoot(), named("SecureBoot"), func(s *step) { *s = config(global, "SecureBoot", 0); s.of = s.data })
	after := func(more ...step) []step { return append(slices.Clone(off), more...) }
	early := func(more ...step) []step { return append(slices.Clone(more), off...) }
	isSeparator := func(s step) bool { return s.pcr == 7 && s.kind == tcg.Separator }
	none := slices.DeleteFunc(slices.Clone(off), named("SecureBoot"))

	for name, c := range map[string]struct {
		log, machine []step
		want         string // "off", "on", "unsaid"
	}{
		"as it is":                            {off, off, "off"},
		"on":                                  {aBoot(), aBoot(), "on"},
		"extended after the boot":             {after(enabled), after(enabled), "off"},
		"the data exchanged":                  {with(off, named("SecureBoot"), func(s *step) { s.data = enabled.data }), off, "unsaid"},
		"the data of another event exchanged": {with(off, named("PK"), func(s *step) { s.data = enabled.data }), off, "unsaid"},
		"the separator renamed, and one extended": {with(after(enabled), isSeparator, func(s *step) { s.kind = tcg.EFIAction; s.data = []byte("Action") }), after(enabled), "off"},
		"another event is called the separator":   {with(off, named("PK"), func(s *step) { s.kind = tcg.Separator }), off, "unsaid"},
		"another type":                            {with(off, named("SecureBoot"), func(s *step) { s.kind = tcg.EFIVariableBoot }), off, "off"},
		"said twice":                              {early(enabled), early(enabled), "unsaid"},
		"not said, and extended after the boot":   {append(slices.Clone(none), enabled), append(slices.Clone(none), enabled), "unsaid"},
		"no separator":                            {slices.DeleteFunc(slices.Clone(off), isSeparator), slices.DeleteFunc(slices.Clone(off), isSeparator), "unsaid"},
		"the firmware could not measure":          {with(off, isSeparator, func(s *step) { s.data = []byte{1, 0, 0, 0}; s.of = s.data }), with(off, isSeparator, func(s *step) { s.data = []byte{1, 0, 0, 0}; s.of = s.data }), "unsaid"},
		"a debugger":                              {early(step{pcr: 7, kind: tcg.EFIAction, data: []byte("UEFI Debug Mode")}), early(step{pcr: 7, kind: tcg.EFIAction, data: []byte("UEFI Debug Mode")}), "unsaid"},
		"another value":                           {early(config(global, "SecureBoot", 2)), early(config(global, "SecureBoot", 2)), "unsaid"},
		"another vendor's variable":               {early(config(security, "SecureBoot", 1)), early(config(security, "SecureBoot", 1)), "off"},
		"bytes behind the variable": {
			early(step{pcr: 7, kind: tcg.EFIVariableDriverConfig, data: append(variable(global, "SecureBoot", []byte{1}), 0)}),
			early(step{pcr: 7, kind: tcg.EFIVariableDriverConfig, data: append(variable(global, "SecureBoot", []byte{1}), 0)}), "off",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := replayOver(t, c.log, c.machine)
			said := "unsaid"
			if got.SecureBoot != nil {
				said = map[bool]string{true: "on", false: "off"}[*got.SecureBoot]
			}
			if said != c.want {
				t.Errorf("secure boot is %s, want %s", said, c.want)
			}
			if (got.Keys == nil) != (said == "unsaid") {
				t.Errorf("keys: %v", got.Keys)
			}
		})
	}
}

// shim measures behind the separator that it was told to validate nothing; it then
// starts whatever there is, with the firmware's secure boot on.
func TestSecureBootIsOffWhenShimDoesNotValidate(t *testing.T) {
	shimLock := []byte("\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23")
	behind := func(data []byte) []step {
		return append(aBoot(), step{pcr: 7, kind: tcg.EFIVariableAuthority, data: data})
	}
	logged := func(steps []step, data []byte) []step {
		out := slices.Clone(steps)
		last := &out[len(out)-1]
		last.of, last.data = last.data, data
		return out
	}
	state := func(value ...byte) []byte { return variable(shimLock, "MokSBState", value) }
	old := func(data []byte) []step { return logged(behind(data[:len(data)-1]), data) } // the last byte is logged and not hashed
	unsaid, on, off := "unsaid", "on", "off"
	for name, c := range map[string]struct {
		log, machine []step
		want         string
	}{
		"validation off":                   {behind(state(1)), behind(state(1)), off},
		"validation off, another type":     {with(behind(state(1)), named("MokSBState"), func(s *step) { s.kind = tcg.Ipl }), behind(state(1)), off},
		"another vendor's":                 {behind(variable(global, "MokSBState", []byte{1})), behind(variable(global, "MokSBState", []byte{1})), off},
		"more than a byte":                 {behind(state(0, 0, 0, 1)), behind(state(0, 0, 0, 1)), off},
		"validation on":                    {behind(state(0)), behind(state(0)), on},
		"validation on, an empty variable": {behind(state()), behind(state()), on},
		"the data exchanged":               {logged(behind(state(1)), state(0)), behind(state(1)), unsaid},
		"the data left out":                {logged(behind(state(1)), nil), behind(state(1)), unsaid},
		"a byte behind the data":           {logged(behind(state(1)), append(state(1), 0)), behind(state(1)), off},
		"an old shim":                      {old(state(1)), old(state(1)), off},
		"an old shim, the value exchanged": {old(state(0)), old(state(1)), off},
		"an old shim's authority":          {old(variable(shimLock, "Shim", []byte("a certificate"))), old(variable(shimLock, "Shim", []byte("a certificate"))), on},
		"an authority":                     {behind(variable(shimLock, "MokListTrusted", []byte{1})), behind(variable(shimLock, "MokListTrusted", []byte{1})), on},
		"root extends something":           {behind([]byte("anything")), behind([]byte("anything")), on},
	} {
		t.Run(name, func(t *testing.T) {
			got := replayOver(t, c.log, c.machine)
			said := unsaid
			if got.SecureBoot != nil {
				said = map[bool]string{true: on, false: off}[*got.SecureBoot]
			}
			if said != c.want || (got.Keys == nil) != (said == unsaid) {
				t.Errorf("secure boot is %s, want %s; keys %v", said, c.want, got.Keys)
			}
		})
	}
}

func TestAVariableThatWasNotDefinedIsOff(t *testing.T) {
	steps := with(aBoot(), named("SecureBoot"), func(s *step) { *s = config(global, "SecureBoot"); s.of = s.data })
	if got := replay(t, steps); got.SecureBoot == nil || *got.SecureBoot {
		t.Errorf("%+v", got)
	}
}

// An option ROM's authority is measured as a variable of the same name, before the
// separator.
func TestAnAuthorityIsNoKeyDatabase(t *testing.T) {
	steps := aBoot()
	authority := step{pcr: 7, kind: tcg.EFIVariableAuthority, data: variable(security, "db", []byte("an option ROM's signer"))}
	at := slices.IndexFunc(steps, func(s step) bool { return s.pcr == 7 && s.kind == tcg.Separator })
	same(t, replay(t, steps).Keys, replay(t, slices.Insert(slices.Clone(steps), at, authority)).Keys)
	// Where the database itself was not measured, there is no digest of it.
	none := slices.DeleteFunc(slices.Insert(slices.Clone(steps), at, authority), func(s step) bool {
		return s.kind == tcg.EFIVariableDriverConfig && bytes.Contains(s.data, []byte("allowed"))
	})
	if got := replay(t, none); len(got.Keys["db"]) != 0 || len(got.Keys) != 3 {
		t.Errorf("%v", got.Keys)
	}
}

func TestFirmwareIsClaimedOnlyBeyondDoubt(t *testing.T) {
	gce := func(technology byte) []step {
		return []step{
			{pcr: 0, kind: tcg.SCRTMVersion, data: wide("GCE Virtual Firmware v2")},
			{pcr: 0, kind: tcg.NonhostInfo, data: append(append([]byte("GCE NonHostInfo\x00"), technology), make([]byte, 15)...)}, separator(0),
		}
	}
	version := func(data []byte) []step { return []step{{pcr: 0, kind: tcg.SCRTMVersion, data: data}, separator(0)} }
	aboot, hidden := gce(1), gce(1)
	hidden[1].of, hidden[1].data = hidden[1].data, []byte("something else")
	exchanged := version(wide("Firmware 1.0"))
	exchanged[0].of, exchanged[0].data = exchanged[0].data, wide("Firmware 2.0")
	for name, c := range map[string]struct {
		log, machine []step
		want         string
	}{
		"GCE":                         {gce(0), gce(0), "GCE Virtual Firmware v2"},
		"GCE with SEV":                {aboot, aboot, "GCE Virtual Firmware v2 (AMD SEV)"},
		"GCE with SEV-ES":             {gce(2), gce(2), "GCE Virtual Firmware v2 (AMD SEV-ES)"},
		"GCE with TDX":                {gce(3), gce(3), "GCE Virtual Firmware v2 (Intel TDX)"},
		"GCE with SEV-SNP":            {gce(4), gce(4), "GCE Virtual Firmware v2 (AMD SEV-SNP)"},
		"GCE with another":            {gce(5), gce(5), "GCE Virtual Firmware v2 (technology 5)"},
		"GCE, the technology hidden":  {hidden, aboot, ""},
		"GCE, no technology":          {append(gce(0)[:1], separator(0)), append(gce(0)[:1], separator(0)), ""},
		"a GUID":                      {version([]byte("\x1e\xfbkT\x0c\x1dU@\xa4\xadN\xf4\xbf\x17\xb8:")), version([]byte("\x1e\xfbkT\x0c\x1dU@\xa4\xadN\xf4\xbf\x17\xb8:")), "546bfb1e-1d0c-4055-a4ad-4ef4bf17b83a"},
		"ASCII":                       {version([]byte("1.2.3\x00")), version([]byte("1.2.3\x00")), "1.2.3"},
		"bytes":                       {version([]byte{1, 2, 3}), version([]byte{1, 2, 3}), "010203"},
		"many bytes":                  {version(bytes.Repeat([]byte{1}, 99)), version(bytes.Repeat([]byte{1}, 99)), "sha256:" + attest.Bytes(hashOf(bytes.Repeat([]byte{1}, 99))).String()},
		"nothing":                     {version([]byte{0, 0}), version([]byte{0, 0}), ""},
		"the data exchanged":          {exchanged, version(wide("Firmware 1.0")), ""},
		"two versions":                {append(version([]byte("1"))[:1], version([]byte("2"))...), append(version([]byte("1"))[:1], version([]byte("2"))...), ""},
		"a version after the boot":    {[]step{separator(0), version([]byte("1"))[0]}, []step{separator(0), version([]byte("1"))[0]}, ""},
		"a version and no separator":  {version([]byte("1"))[:1], version([]byte("1"))[:1], ""},
		"terminal controls in a text": {version([]byte("1\x1b[2J")), version([]byte("1\x1b[2J")), "311b5b324a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := replayOver(t, c.log, c.machine).Firmware; got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// Whatever type a log gives to an application's event, the digest is there.
func TestALoaderCannotBeHidden(t *testing.T) {
	evil := append(aBoot(), app("evil"))
	isEvil := func(s step) bool { return bytes.Equal(s.of, []byte("evil")) }
	want := replay(t, evil).Loaders
	if len(want) != 4 || !bytes.Equal(want[3], hashOf([]byte("evil"))) {
		t.Fatalf("%v", want)
	}
	for _, kind := range []tcg.EventType{tcg.EFIAction, tcg.Action, tcg.OmitBootDeviceEvents, tcg.EFIGPTEvent, 0x12345678} {
		same(t, want, replayOver(t, with(evil, isEvil, func(s *step) {
			s.kind, s.data = kind, []byte("Calling EFI Application from Boot Option")
		}), evil).Loaders)
	}
	// What the firmware notes counts for none, whatever the log makes of it.
	same(t, want, replayOver(t, with(evil, texted("Calling EFI"), func(s *step) { s.kind, s.data = tcg.EFIBootServicesApplication, nil }), evil).Loaders)
	more := append(slices.Clone(evil), step{pcr: 4, kind: tcg.EFIAction, data: []byte("Entering ROM Based Setup")})
	same(t, want, replay(t, more).Loaders)
}

// Root extends what the policy wants to see: it is added, and nothing goes away.
func TestALoaderCannotBeReplaced(t *testing.T) {
	evil := append(aBoot(), app("evil"), app("the policy's loader"))
	if got := replay(t, evil).Loaders; len(got) != 5 || !bytes.Equal(got[3], hashOf([]byte("evil"))) {
		t.Errorf("%v", got)
	}
	var many []step
	for range 65 {
		many = append(many, app("x"))
	}
	if got := replay(t, many).Loaders; got != nil {
		t.Errorf("%d loaders", len(got))
	}
}

// GRUB hashes no label, so a log may exchange them: the machine tried a command that
// reads like the line, and started another kernel.
func TestACommandCannotPassForTheCommandLine(t *testing.T) {
	for _, command := range []string{commandLine, "linux " + commandLine} {
		evil := []step{grub("grub_cmd: " + command), grub("grub_cmd: linux /evil"), grub("kernel_cmdline: /evil")}
		log := slices.Clone(evil)
		log[0].data, log[2].data = []byte("kernel_cmdline: "+command+"\x00"), []byte("grub_cmd: /evil\x00")
		if got := replayOver(t, log, evil); got.CommandLine != "" {
			t.Errorf("command line %q", got.CommandLine)
		}
	}
}

func TestTheCommandLineIsClaimedOnlyBeyondDoubt(t *testing.T) {
	good := []step{grub("grub_cmd: linux " + commandLine), grub("kernel_cmdline: " + commandLine)}
	and := func(more ...step) []step { return append(slices.Clone(good), more...) }
	options := func(pcr uint32, s string) step { return step{pcr: pcr, kind: tcg.Ipl, data: wide(s)} }
	short := options(8, "quiet ro")
	short.of, short.data = short.data, short.data[:len(short.data)-1]
	quoted := []step{grub(`grub_cmd: linux /vmlinuz dm=1 vroot none`), grub(`kernel_cmdline: /vmlinuz "dm=1 vroot none"`)}
	for name, c := range map[string]struct {
		steps []step
		want  string
	}{
		"GRUB":                                 {good, commandLine},
		"GRUB, older":                          {[]step{{pcr: 8, data: []byte("grub_cmd linux x\x00"), of: []byte("linux x")}, {pcr: 8, data: []byte("grub_kernel_cmdline x\x00"), of: []byte("x")}}, "x"},
		"GRUB, the zero hashed":                {[]step{{pcr: 8, data: []byte("grub_cmd: linux x\x00"), of: []byte("linux x\x00")}, {pcr: 8, data: []byte("kernel_cmdline: x\x00"), of: []byte("x\x00")}}, "x"},
		"GRUB, quotes":                         {quoted, `/vmlinuz "dm=1 vroot none"`},
		"another kernel afterwards":            {and(grub("grub_cmd: linux /evil"), grub("kernel_cmdline: /evil")), ""},
		"another kernel, its line hidden":      {and(grub("grub_cmd: linux /evil"), grub("grub_cmd: /evil")), ""},
		"another boot loader":                  {and(grub("grub_cmd: chainloader /evil.efi")), ""},
		"another kind of kernel":               {and(grub("grub_cmd: multiboot2 /evil")), ""},
		"another line by itself":               {and(grub("kernel_cmdline: /evil")), ""},
		"another line by itself, on a device":  {and(grub("grub_cmd: (hd0,gpt1)/evil")), ""},
		"another line before":                  {append([]step{grub("kernel_cmdline: /evil")}, good...), ""},
		"no line behind the command":           {[]step{good[0]}, ""},
		"another line behind the command":      {[]step{good[0], grub("kernel_cmdline: /vmlinuz other")}, ""},
		"a line without the command":           {[]step{good[1]}, ""},
		"something that cannot be read":        {and(step{pcr: 8, kind: tcg.Ipl, data: []byte("grub_cmd: boot\x00"), of: []byte("evil")}), ""},
		"bytes that are no text":               {and(step{pcr: 8, kind: tcg.Ipl, data: []byte("grub_cmd: \xff\x00"), of: []byte("\xff")}), ""},
		"systemd-boot":                         {[]step{options(12, "quiet ro")}, "quiet ro"},
		"systemd-boot, old":                    {[]step{options(8, "quiet ro")}, "quiet ro"},
		"systemd-boot, old, a byte missing":    {[]step{short}, "quiet ro"},
		"systemd-boot and systemd-stub":        {[]step{options(12, "quiet ro"), options(12, "quiet ro")}, "quiet ro"},
		"two lines":                            {[]step{options(12, "quiet ro"), options(12, "evil")}, ""},
		"two lines, one of them GRUB's":        {and(options(12, "evil")), ""},
		"options and a credential":             {[]step{options(12, "quiet ro"), {pcr: 12, kind: tcg.Ipl, data: wide("Credentials initrd"), of: []byte("an archive")}}, ""},
		"half a surrogate pair":                {[]step{{pcr: 12, kind: tcg.Ipl, data: []byte{0x00, 0xd8, 'x', 0, 0, 0}}}, ""},
		"a text that GRUB does not measure 12": {[]step{{pcr: 12, kind: tcg.Ipl, data: []byte("quiet ro")}}, ""},
		"nothing":                              {nil, ""},
		"that of a unified kernel":             {append(stub(".linux", "a kernel", ".cmdline", "quiet ro\n\x00"), options(12, "quiet ro")), "quiet ro"},
		"another than a unified kernel's":      {append(stub(".linux", "a kernel", ".cmdline", "evil"), options(12, "quiet ro")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := replay(t, c.steps).CommandLine; got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	var many []step
	for range 1025 {
		many = append(many, grub("grub_cmd: echo x"))
	}
	if got := replay(t, many); got.GRUBCommands != nil {
		t.Errorf("%d commands", len(got.GRUBCommands))
	}
	if got := replay(t, []step{grub("grub_cmd: " + strings.Repeat("x", 65<<10))}); got.GRUBCommands != nil {
		t.Error("a command of 65 KiB")
	}
}

// Whatever starts or loads something that is not known takes the claim away, also
// where root extends the golden texts behind it.
func TestAGRUBCommandThatIsNotKnownTakesTheCommandLineAway(t *testing.T) {
	golden := []step{grub("grub_cmd: linux " + commandLine), grub("kernel_cmdline: " + commandLine)}
	for _, texts := range [][]string{
		{"insmod (hd0,gpt1)/evil.mod"}, {"insmod /evil.mod"}, {"insmod evil/../mod"}, {"insmod"}, {"insmod a b"},
		{"legacy_kernel 0+20480 evil", "0+20480 evil"}, {"0+20480 evil"}, {"+1"}, {"1,2+3 evil"}, {"evil"},
		{"legacy_configfile /x"}, {"legacy_source /x"}, {"appleloader CD"}, {"pxechainloader x"}, {"plan9 /x"}, {"freedos /x"}, {"truecrypt /x"}, {"xnu_resume /x"},
		{"module /evil"}, {"module2 /evil"}, {"xen_module /evil"}, {"acpi /evil.aml"}, {"devicetree /evil.dtb"}, {"write_dword 0x1000 1"}, {"wrmsr 1 2"}, {"setpci x"}, {"outb 1 2"},
		{"rmmod tpm"}, {"exit"}, {"efiload /x"}, {"dump /x"}, {"! chainloader /evil"}, {"!"}, {"linuxx"}, {"=x"}, {"1x=y"}, {"a-b=c"}, {" linux"}, {"set\tx"},
	} {
		var steps []step
		for _, s := range texts {
			steps = append(steps, grub("grub_cmd: "+s))
		}
		for name, all := range map[string][]step{"before": slices.Concat(steps, golden), "after": slices.Concat(golden, steps)} {
			got := replay(t, all)
			if got.CommandLine != "" || len(got.GRUBCommands) != len(all) {
				t.Errorf("%q %s: command line %q, %d commands", texts, name, got.CommandLine, len(got.GRUBCommands))
			}
		}
	}
	// What an ordinary configuration does beside it takes nothing away.
	harmless := []string{
		"[ -s /boot/grub/grubenv ]", "set default=0", "x=", "menuentry_id_option=--id", "insmod part_gpt", "search --no-floppy --fs-uuid --set=root 8270", "! test -e /x",
		"recordfail", "load_video", "gfxmode keep", "initrd /initrd.img", "echo Loading …", "setparams Ubuntu --class gnu", "blscfg", "search.fs_uuid 8270 root", "true",
	}
	var steps []step
	for _, s := range harmless {
		steps = append(steps, grub("grub_cmd: "+s))
	}
	if got := replay(t, slices.Concat(steps, golden, steps)); got.CommandLine != commandLine {
		t.Errorf("command line %q", got.CommandLine)
	}
}

// The names of GRUB's files are not measured: exchanging them changes nothing.
func TestTheNamesOfFilesAreNoClaims(t *testing.T) {
	machine := []step{file("/good", "good"), file("/initrd", "evil")}
	log := slices.Clone(machine)
	log[0].data, log[1].data = log[1].data, log[0].data
	same(t, replay(t, machine), replayOver(t, log, machine))
}

// stub measures sections as systemd-stub does: name and content.
func stub(pairs ...string) []step {
	var out []step
	for i := 0; i < len(pairs); i += 2 {
		out = append(out,
			step{pcr: 11, kind: tcg.Ipl, data: wide(pairs[i]), of: []byte(pairs[i] + "\x00")},
			step{pcr: 11, kind: tcg.Ipl, data: wide(pairs[i]), of: []byte(pairs[i+1])})
	}
	return out
}

func TestTheSectionsOfAUnifiedKernelAreClaimed(t *testing.T) {
	good := []string{".linux", "a kernel", ".osrel", "ID=x", ".cmdline", "quiet", ".initrd", "an initrd", ".sbat", "sbat", ".pcrpkey", "key", ".hwids", "ids", ".dtbauto", "dtb"}
	want := make(map[string]attest.Bytes)
	for i := 0; i < len(good); i += 2 {
		want[good[i]] = hashOf([]byte(good[i+1]))
	}
	same(t, want, replay(t, stub(good...)).Unified)
	// The description of a section is not what is measured.
	renamed := stub(good...)
	renamed[6].data, renamed[7].data = wide(".linux"), wide(".linux")
	same(t, want, replayOver(t, renamed, stub(good...)).Unified)

	for name, steps := range map[string][]step{
		"a section twice":        append(stub(good...), stub(".hwids", "others")...),
		"another order":          append(stub(good...), stub(".splash", "a picture")...),
		"a section unknown":      append(stub(good...), stub(".evil", "evil")...),
		"a section not measured": append(stub(good...), stub(".pcrsig", "a signature")...),
		"a name without content": stub(good...)[:3],
		"a phase among them":     append(append(stub(good[:2]...), step{pcr: 11, data: []byte("enter-initrd")}), stub(".cmdline", "other")...),
		"nothing":                nil,
	} {
		if got := replay(t, steps).Unified; got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Types that nobody knows, on which go-eventlog's extractors panic.
func TestUnknownTypesAreNoTrouble(t *testing.T) {
	steps := aBoot()
	for i := range steps {
		if steps[i].kind != tcg.Separator {
			steps[i].kind = tcg.EventType(0x7fff0000 + i)
		}
	}
	got, err := eventlog.Replay(logOf(steps...), crypto.SHA256, tpm(aBoot()...))
	if err != nil || got.Firmware != "" || got.Keys != nil || len(got.Loaders) != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}
