package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hf/nsm"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/enclave-agent/entropy"
)

// NitroDevice is where a Nitro Enclave's kernel puts the Nitro Security Module.
const NitroDevice = "/dev/nsm"

// nitroUserDataTag precedes the binding in user_data (docs/spec/binding.md), so
// that a document made for another purpose is never one made for Assay.
const nitroUserDataTag = "assay/v1\x00"

// nitroCollectedTag precedes it in a document made for somebody to look at.
const nitroCollectedTag = "assay/v1 collected\x00"

// nsmTimeout bounds one request to the NSM. A real one answers an attestation
// request within tens of milliseconds.
const nsmTimeout = 10 * time.Second

// maxNitroDocument is what the verifier accepts at most, 16 KiB.
const maxNitroDocument = 16 << 10

// Nitro attests through a Nitro Security Module. Each request opens the device
// afresh: there is no session to lose, and nothing to close.
type Nitro struct {
	name    string
	timeout time.Duration
	open    func(ctx context.Context) (nsmSession, error)
}

// nsmSession is one open NSM; [nsm.Session] is one.
type nsmSession interface {
	Send(request.Request) (response.Response, error)
	Close() error
}

// NewNitro uses the NSM's character device, in production [NitroDevice].
func NewNitro(path string) *Nitro {
	o := nsm.DefaultOptions
	o.Open = func() (nsm.FileDescriptor, error) { return os.OpenFile(path, os.O_RDWR, 0) }
	return &Nitro{name: path, timeout: nsmTimeout, open: func(context.Context) (nsmSession, error) { return nsm.OpenSession(o) }}
}

// NewNitroSocket uses an NSM behind a unix socket: a simulator (`teesim nitro
// run`). The bytes are those of the device, each message after its length as
// an unsigned 32-bit big-endian number (docs/spec/nsm-socket.md).
func NewNitroSocket(path string) *Nitro {
	return &Nitro{name: path, timeout: nsmTimeout, open: func(ctx context.Context) (nsmSession, error) { return dialNSM(ctx, path) }}
}

// Platform is aws-nitro.
func (n *Nitro) Platform() attest.Platform { return attest.AWSNitro }

// Evidence asks the NSM for a document with user_data = "assay/v1\0" ‖ B,
// nonce = the server's nonce and public_key = the first key.
func (n *Nitro) Evidence(ctx context.Context, want attest.Binding) (attest.Evidence, error) {
	if len(want.Keys) == 0 {
		return attest.Evidence{}, &attest.Error{Kind: attest.Internal, Check: "nsm", Err: errors.New("a binding without keys")}
	}
	return n.document(ctx, &request.Attestation{
		UserData:  append([]byte(nitroUserDataTag), want.B[:]...),
		Nonce:     want.Nonce[:],
		PublicKey: want.Keys[0].SPKI,
	})
}

// Collect asks for a document outside of an attestation, for the security team:
// user_data has a tag that attestation refuses, and there is no key.
func (n *Nitro) Collect(ctx context.Context, nonce []byte) (attest.Evidence, error) {
	b, err := attest.CollectedBinding(nonce)
	if err != nil {
		return attest.Evidence{}, err
	}
	return n.document(ctx, &request.Attestation{UserData: append([]byte(nitroCollectedTag), b[:]...), Nonce: nonce})
}

func (n *Nitro) document(ctx context.Context, req *request.Attestation) (attest.Evidence, error) {
	res, err := n.ask(ctx, req)
	if err != nil {
		return attest.Evidence{}, err
	}
	if res.Attestation == nil || len(res.Attestation.Document) == 0 || len(res.Attestation.Document) > maxNitroDocument {
		return attest.Evidence{}, &attest.Error{
			Kind: attest.Internal, Check: "nsm", Err: fmt.Errorf("%s did not answer an attestation request with a document", n.name),
			Expected: fmt.Sprintf("a document of 1 to %d bytes", maxNitroDocument),
		}
	}
	return attest.Evidence{Platform: attest.AWSNitro, Body: res.Attestation.Document}, nil
}

// Probe asks the NSM who it is.
func (n *Nitro) Probe(ctx context.Context) (string, error) {
	res, err := n.ask(ctx, &request.DescribeNSM{})
	if err != nil {
		return "", err
	}
	d := res.DescribeNSM
	if d == nil {
		return "", &attest.Error{Kind: attest.Internal, Check: "nsm", Err: fmt.Errorf("%s did not describe itself", n.name)}
	}
	return fmt.Sprintf("%s: NSM %d.%d.%d, module %s, %d PCRs (%s)%s",
		n.name, d.VersionMajor, d.VersionMinor, d.VersionPatch, clip(d.ModuleID), d.MaxPCRs, clip(string(d.Digest)), n.reach()), nil
}

// ask sends one request. An ioctl cannot be cancelled: after the time-out its
// goroutine stays until the kernel returns, and its answer is dropped.
func (n *Nitro) ask(ctx context.Context, req request.Request) (response.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	type answer struct {
		res response.Response
		err error
	}
	done := make(chan answer, 1)
	go func() {
		res, err := n.exchange(ctx, req)
		done <- answer{res, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	switch {
	case a.err != nil:
		return response.Response{}, n.deviceError(a.err)
	case a.res.Error != "" && a.res.Error != response.ECSuccess:
		return response.Response{}, &attest.Error{
			Kind: attest.Internal, Check: "nsm", Err: fmt.Errorf("%s refused the request", n.name), Got: clip(string(a.res.Error)),
		}
	}
	return a.res, nil
}

// exchange opens, sends and closes. The response is decoded by a library from
// bytes of the device: a panic there must not end the agent.
func (n *Nitro) exchange(ctx context.Context, req request.Request) (res response.Response, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decoding the answer of %s failed: %v", n.name, r)
		}
	}()
	s, err := n.open(ctx)
	if err != nil {
		return response.Response{}, err
	}
	defer func() { _ = s.Close() }()
	return s.Send(req)
}

// deviceError says what is wrong with the device and what to do about it.
func (n *Nitro) deviceError(err error) error {
	e := &attest.Error{Kind: attest.Unavailable, Check: "nsm", Err: fmt.Errorf("the Nitro Security Module cannot be used: %w", err)}
	var ioctl *nsm.ErrorIoctlFailed
	switch {
	case errors.Is(err, fs.ErrNotExist) && n.name == NitroDevice:
		e.Hint = "this machine is no Nitro Enclave, or its kernel lacks the nsm driver; against a simulator set nitro.socket"
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "check the path in the configuration (nitro.device or nitro.socket); `teesim nitro run --socket PATH` makes a simulated one"
	case errors.Is(err, fs.ErrPermission):
		e.Hint = "the device belongs to the agent alone: run the agent as its owner (mode 0600)"
	case errors.Is(err, context.DeadlineExceeded):
		e.Hint = "the device did not answer in time"
	case errors.As(err, &ioctl):
		e.Hint = "is this an NSM? see nitro.device in the configuration"
	}
	return e
}

// String is the path of the device or socket.
func (n *Nitro) String() string { return n.name }

// maxNSMRandom is what one GetRandom of an NSM answers with.
const maxNSMRandom = 256

// Entropy asks the NSM for size random bytes, with as many GetRandom as it takes.
// Errors are those of Evidence, and those of [entropy.Gather].
func (n *Nitro) Entropy(ctx context.Context, size int) ([]byte, error) {
	return entropy.Gather(size, maxNSMRandom, func() ([]byte, error) {
		res, err := n.ask(ctx, &request.GetRandom{})
		if err != nil {
			return nil, err
		}
		if res.GetRandom == nil {
			return nil, &attest.Error{Kind: attest.Internal, Check: "nsm", Err: fmt.Errorf("%s did not answer a request for random bytes with some", n.name)}
		}
		return res.GetRandom.Random, nil
	})
}
