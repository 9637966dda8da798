package main

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/google/go-sev-guest/verify"
	"github.com/rogpeppe/go-internal/testscript"
)

// snpCommands are what sessions with SEV-SNP can do beside ours.
func snpCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"snpverify": snpVerify, "snpask": snpAsk, "reportdata": reportData, "freeport": freePort, "fetch": fetch,
	}
}

// snpVerify REPORT ROOTS CHAIN: the standard library accepts the chain, and an
// independent one the report's signature.
func snpVerify(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: snpverify REPORT ROOTS CHAIN")
	}
	err := func() error {
		roots := x509.NewCertPool()
		for _, c := range certificates(ts, args[1]) {
			if bytes.Equal(c.RawSubject, c.RawIssuer) {
				roots.AddCert(c)
			}
		}
		chain := certificates(ts, args[2])
		mid := x509.NewCertPool()
		for _, c := range chain[1:] {
			mid.AddCert(c)
		}
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: mid, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return err
		}
		return verify.SnpReportSignature([]byte(ts.ReadFile(args[0])), chain[0])
	}()
	if neg != (err != nil) {
		ts.Fatalf("verification: %v", err)
	}
}

// certificates reads those of a file, in PEM or one in DER; CRLs are skipped.
func certificates(ts *testscript.TestScript, file string) (out []*x509.Certificate) {
	b := []byte(ts.ReadFile(file))
	if block, _ := pem.Decode(b); block == nil {
		c, err := x509.ParseCertificate(b)
		ts.Check(err)
		return []*x509.Certificate{c}
	}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		ts.Check(err)
		out = append(out, c)
	}
}

// snpAsk SOCKET KIND VMPL BYTE FILE: ask a guest for a report (1) or an extended
// one (2) over that byte 64 times, and keep it; with "!", it must refuse.
func snpAsk(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 5 {
		ts.Fatalf("usage: snpask SOCKET KIND VMPL BYTE FILE")
	}
	var n [3]byte
	for i, s := range args[1:4] {
		v, err := strconv.ParseUint(s, 0, 8)
		ts.Check(err)
		n[i] = byte(v)
	}
	body := append(append([]byte{n[0]}, bytes.Repeat(n[2:3], 64)...), n[1])
	out := exchange(ts, args[0], body)
	if neg != (out[0] != 0) {
		ts.Fatalf("status %d: %.100s", out[0], out[1:])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[4]), out[1:], 0o600))
}

// reportData HEX FILE: the report's data are these bytes and zeros.
func reportData(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: reportdata HEX FILE")
	}
	want, err := hex.DecodeString(args[0])
	ts.Check(err)
	b := []byte(ts.ReadFile(args[1]))
	if len(b) < 1184 || !bytes.Equal(b[0x50:0x90], append(want, make([]byte, 64-len(want))...)) {
		ts.Fatalf("%s has %d bytes and other data", args[1], len(b))
	}
}

// freePort NAME: sets the variable to a port that nobody listens on.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], port)
}

// fetch STATUS URL [FILE]: wait until somebody listens there, and keep the answer.
func fetch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fetch STATUS URL [FILE]")
	}
	var err error
	for range 500 {
		var r *http.Response
		if r, err = http.Get(args[1]); err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		b, err := io.ReadAll(r.Body)
		ts.Check(err)
		ts.Check(r.Body.Close())
		if fmt.Sprint(r.StatusCode) != args[0] {
			ts.Fatalf("%s: %s: %s", args[1], r.Status, b)
		}
		if len(args) == 3 {
			ts.Check(os.WriteFile(ts.MkAbs(args[2]), b, 0o600))
		}
		return
	}
	ts.Fatalf("%s: %v", args[1], err)
}
