package nitro

import (
	"bytes"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/hf/nitrite"
	"github.com/hf/nsm"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
)

// device makes a Module look like /dev/nsm to the client library.
type device struct{ m *Module }

func (device) Fd() uintptr  { return 42 }
func (device) Close() error { return nil }

// message is what the driver's ioctl takes (linux/nsm.h, struct nsm_raw).
type message struct{ Request, Response syscall.Iovec }

// call is the ioctl: it reads the request where the message points, and writes
// the response there.
func (d device) call(trap, fd, _, arg uintptr) (uintptr, uintptr, syscall.Errno) {
	if trap != syscall.SYS_IOCTL || fd != 42 {
		return 0, 0, syscall.ENOTTY
	}
	m := *(**message)(unsafe.Pointer(&arg))
	out := d.m.Handle(unsafe.Slice(m.Request.Base, m.Request.Len))
	if uint64(len(out)) > m.Response.Len {
		return 0, 0, syscall.EMSGSIZE
	}
	m.Response.Len = uint64(copy(unsafe.Slice(m.Response.Base, m.Response.Len), out))
	return 0, 0, 0
}

// withClient runs a test against the module through the real client library.
// That keeps the ioctl message on the goroutine's stack and hands its address
// over as a number, which holds for a system call; for a Go function the stack
// must not move meanwhile. So the stack is grown beforehand, and the collector,
// which shrinks stacks, is off.
func withClient(t *testing.T, m *Module, f func(*nsm.Session)) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	done := make(chan struct{})
	go func() {
		defer close(done)
		growStack(512)
		d := device{m}
		s, err := nsm.OpenSession(nsm.Options{
			Open:    func() (nsm.FileDescriptor, error) { return d, nil },
			Syscall: d.call,
		})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = s.Close() }()
		f(s)
	}()
	<-done
}

//go:noinline
func growStack(depth int) byte {
	var room [2048]byte
	room[depth%len(room)] = byte(depth)
	if depth > 0 {
		room[0] = growStack(depth - 1)
	}
	return room[depth%len(room)]
}

func launch(t testing.TB, a *Authority, l Launch, faults ...Fault) *Module {
	t.Helper()
	m, err := a.Launch(l, faults...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTheClientLibraryDrivesTheModule(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	const role = "arn:aws:iam::123456789012:role/orders"
	m := launch(t, a, Launch{Image: ImageFromSeed("orders"), Role: role, InstanceID: "i-0123456789abcdef0"})
	withClient(t, m, func(s *nsm.Session) {
		send := func(r request.Request) response.Response {
			t.Helper()
			res, err := s.Send(r)
			if err != nil {
				t.Errorf("%T: %v", r, err)
			}
			return res
		}
		refused := func(r request.Request, want string) {
			t.Helper()
			if got := send(r); string(got.Error) != want {
				t.Errorf("%T %v: error %q, want %q", r, r, got.Error, want)
			}
		}

		describe := send(&request.DescribeNSM{}).DescribeNSM
		want := &response.DescribeNSM{
			VersionMajor: 1, ModuleID: m.ModuleID(), MaxPCRs: 32, Digest: response.DigestSHA384,
			LockedPCRs: []uint16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		}
		if diff := cmp.Diff(want, describe); diff != "" {
			t.Errorf("DescribeNSM (-want +got):\n%s", diff)
		}

		// The launch measured the image, the role and the instance, and locked them.
		for i, want := range map[uint16][]byte{
			0: ImageFromSeed("orders").PCR0, 3: RolePCR(role), 4: InstancePCR("i-0123456789abcdef0"), 5: make([]byte, 48),
		} {
			got := send(&request.DescribePCR{Index: i}).DescribePCR
			if got == nil || !got.Lock || !bytes.Equal(got.Data, want) {
				t.Errorf("PCR%d is %v, want %x, locked", i, got, want)
			}
		}
		refused(&request.ExtendPCR{Index: 0, Data: []byte("x")}, "ReadOnlyIndex")
		refused(&request.LockPCR{Index: 15}, "ReadOnlyIndex")

		// A free register is extended, then locked, then closed for good.
		old := make([]byte, 48)
		for _, data := range [][]byte{[]byte("one"), {}} {
			old = extend(old, data)
			if got := send(&request.ExtendPCR{Index: 16, Data: data}).ExtendPCR; got == nil || !bytes.Equal(got.Data, old) {
				t.Errorf("ExtendPCR(16) = %v, want %x", got, old)
			}
		}
		if got := send(&request.DescribePCR{Index: 16}).DescribePCR; got == nil || got.Lock {
			t.Errorf("PCR16 before it is locked: %v", got)
		}
		if send(&request.LockPCR{Index: 16}).LockPCR == nil {
			t.Error("LockPCR(16) did not answer LockPCR")
		}
		refused(&request.ExtendPCR{Index: 16, Data: []byte("x")}, "ReadOnlyIndex")
		refused(&request.LockPCR{Index: 16}, "ReadOnlyIndex")
		if send(&request.LockPCRs{Range: 20}).LockPCRs == nil {
			t.Error("LockPCRs(20) did not answer LockPCRs")
		}
		refused(&request.ExtendPCR{Index: 19, Data: []byte("x")}, "ReadOnlyIndex")
		if got := send(&request.ExtendPCR{Index: 20, Data: []byte("x")}); got.ExtendPCR == nil {
			t.Errorf("ExtendPCR(20) = %v: LockPCRs locked one too many", got)
		}
		refused(&request.DescribePCR{Index: 32}, "InvalidIndex")
		refused(&request.ExtendPCR{Index: 32, Data: []byte("x")}, "InvalidIndex")
		refused(&request.LockPCR{Index: 65535}, "InvalidIndex")
		refused(&request.LockPCRs{Range: 33}, "InvalidIndex")
		refused(&request.Attestation{Nonce: make([]byte, 1025)}, "InputTooLarge")
		refused(&request.Attestation{PublicKey: []byte{}}, "InvalidArgument")

		random := make([]byte, 1000)
		if n, err := s.Read(random); n != 1000 || err != nil || bytes.Equal(random[:256], random[256:512]) {
			t.Errorf("Read = %d, %v", n, err)
		}

		// A document tells of the locked registers, and of nothing else.
		ask := &request.Attestation{Nonce: []byte("nonce"), UserData: []byte{}, PublicKey: []byte("key")}
		res := send(ask)
		if res.Attestation == nil {
			t.Errorf("Attestation: %v", res)
			return
		}
		r, err := nitrite.Verify(res.Attestation.Document, nitrite.VerifyOptions{Roots: pool(a), CurrentTime: time.Now()})
		if err != nil {
			t.Error(err)
			return
		}
		d := r.Document
		if d.ModuleID != m.ModuleID() || string(d.Nonce) != "nonce" || d.UserData == nil || string(d.PublicKey) != "key" {
			t.Errorf("module %s, nonce %q, user data %v, key %q", d.ModuleID, d.Nonce, d.UserData, d.PublicKey)
		}
		if len(d.PCRs) != 20 || !bytes.Equal(d.PCRs[16], old) || d.PCRs[20] != nil {
			t.Errorf("%d registers, PCR16 %x, PCR20 %x", len(d.PCRs), d.PCRs[16], d.PCRs[20])
		}
	})
}

func TestTheLargestDocumentFitsIntoAResponse(t *testing.T) {
	m := launch(t, newTestAuthority(t, AuthorityOptions{}), Launch{Image: ImageFromSeed("x")})
	withClient(t, m, func(s *nsm.Session) {
		full := make([]byte, 1024)
		if _, err := s.Send(&request.LockPCRs{Range: 32}); err != nil {
			t.Error(err)
		}
		res, err := s.Send(&request.Attestation{Nonce: full, UserData: full, PublicKey: full})
		if err != nil || res.Attestation == nil || len(res.Attestation.Document) < 8000 {
			t.Errorf("response %v, error %v", res.Error, err)
		}
	})
}

func TestADebugEnclaveMeasuresNothingOfItsImage(t *testing.T) {
	m := launch(t, newTestAuthority(t, AuthorityOptions{}), Launch{Image: ImageFromSeed("orders"), Debug: true, Role: "arn:aws:iam::1:role/r"})
	pcrs := m.PCRs()
	for i, v := range pcrs {
		zero := bytes.Equal(v, make([]byte, 48))
		if want := i != 3 && i != 4; zero != want {
			t.Errorf("PCR%d is %x", i, v)
		}
	}
}

func TestALaunchThatCannotBeIsRefused(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	oversized, _ := FaultByName("oversized")
	image := ImageFromSeed("x")
	short := image
	short.PCR1 = short.PCR1[:47]
	signer := image
	signer.PCR8 = []byte{1}
	for name, f := range map[string]func() error{
		"no image":          func() error { _, err := a.Launch(Launch{}); return err },
		"short PCR1":        func() error { _, err := a.Launch(Launch{Image: short}); return err },
		"short PCR8":        func() error { _, err := a.Launch(Launch{Image: signer}); return err },
		"instance id":       func() error { _, err := a.Launch(Launch{Image: image, InstanceID: "i-0-enc1"}); return err },
		"undeliverable":     func() error { _, err := a.Launch(Launch{Image: image}, oversized); return err },
		"undeliverable too": func() error { _, err := a.Launch(Launch{Image: image}, Fault{}, oversized); return err },
	} {
		if f() == nil {
			t.Errorf("%s: the enclave was launched", name)
		}
	}
}

func TestAFaultyModuleHandsOutFaultyDocuments(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	for _, f := range Faults() {
		if f.MintOnly {
			continue
		}
		m := launch(t, a, Launch{Image: ImageFromSeed("orders")}, f)
		ask := cborMap(pair{cborText("Attestation"), cborMap(
			pair{cborText("user_data"), cborBytes(make([]byte, 41))},
			pair{cborText("nonce"), cborBytes(make([]byte, 32))},
			pair{cborText("public_key"), cborBytes(make([]byte, 91))})})
		got := m.Handle(ask)
		if !bytes.HasPrefix(got, respond("Attestation", nil)) {
			t.Errorf("fault %s: the module answers %q", f.Name, got[:min(len(got), 40)])
		}
	}
}

// Requests that the device does not understand get an error, never a document
// and never silence.
func TestWhatIsNoRequestIsAnsweredWithACode(t *testing.T) {
	m := launch(t, newTestAuthority(t, AuthorityOptions{}), Launch{Image: ImageFromSeed("x")})
	index := func(v []byte) []byte { return cborMap(pair{cborText("index"), v}) }
	for name, c := range map[string]struct {
		request []byte
		want    errorCode
	}{
		"nothing":               {nil, codeInvalidOperation},
		"a number":              {cborUint(1), codeInvalidOperation},
		"unknown":               {cborText("Destroy"), codeInvalidOperation},
		"not UTF-8":             {cborText("Describe\xff"), codeInvalidOperation},
		"fields missing":        {cborText("DescribePCR"), codeInvalidOperation},
		"fields unasked":        {respond("DescribeNSM", cborMap()), codeInvalidOperation},
		"fields null":           {respond("DescribePCR", []byte{cborNull}), codeInvalidOperation},
		"no index":              {respond("DescribePCR", cborMap()), codeInvalidOperation},
		"index as text":         {respond("DescribePCR", index(cborText("0"))), codeInvalidOperation},
		"index negative":        {respond("DescribePCR", index(cborInt(-1))), codeInvalidOperation},
		"index beyond 16 bits":  {respond("DescribePCR", index(cborUint(1<<16))), codeInvalidOperation},
		"index 32":              {respond("LockPCR", index(cborUint(32))), codeInvalidIndex},
		"no data":               {respond("ExtendPCR", index(cborUint(16))), codeInvalidOperation},
		"no range":              {respond("LockPCRs", index(cborUint(1))), codeInvalidOperation},
		"nonce as text":         {respond("Attestation", cborMap(pair{cborText("nonce"), cborText("x")})), codeInvalidOperation},
		"two commands":          {cborMap(pair{cborText("LockPCR"), index(cborUint(16))}, pair{cborText("LockPCRs"), cborMap()}), codeInvalidOperation},
		"a key twice":           {respond("LockPCR", cborMap(pair{cborText("index"), cborUint(16)}, pair{cborText("index"), cborUint(17)})), codeInvalidOperation},
		"trailing bytes":        {append(cborText("DescribeNSM"), 0), codeInvalidOperation},
		"nested deeply":         {bytes.Repeat([]byte{0x81}, 1000), codeInvalidOperation},
		"longer than a request": {cborText(string(make([]byte, MaxRequest))), codeInputTooLarge},
	} {
		want := respond("Error", cborText(string(c.want)))
		if got := m.Handle(c.request); !bytes.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if i := slices.Index(m.locked[:], false); i != 16 {
		t.Errorf("the first free register is %d: one of these requests did something", i)
	}
}

func FuzzHandle(f *testing.F) {
	a, err := NewAuthority(AuthorityOptions{})
	if err != nil {
		f.Fatal(err)
	}
	m := launch(f, a, Launch{Image: ImageFromSeed("x")})
	locked := m.lockedPCRs()
	for _, seed := range [][]byte{
		cborText("DescribeNSM"), cborText("GetRandom"),
		respond("DescribePCR", cborMap(pair{cborText("index"), cborUint(1)})),
		respond("ExtendPCR", cborMap(pair{cborText("index"), cborUint(16)}, pair{cborText("data"), cborBytes([]byte("x"))})),
		respond("LockPCRs", cborMap(pair{cborText("range"), cborUint(17)})),
		respond("Attestation", cborMap(pair{cborText("nonce"), cborBytes([]byte("n"))}, pair{cborText("public_key"), []byte{cborNull}})),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out := m.Handle(b)
		if len(out) == 0 || len(out) > MaxResponse {
			t.Fatalf("a response of %d bytes", len(out))
		}
		var res response.Response
		if err := res.UnmarshalCBOR(out); err != nil {
			t.Fatalf("the client library cannot read the response %x: %v", out, err)
		}
		now := m.PCRs()
		for i, v := range locked {
			if !bytes.Equal(now[i], v) {
				t.Fatalf("request %x changed PCR%d, which is locked", b, i)
			}
		}
	})
}
