package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// checkEventLog demands that log and digest come together. Nothing of the log is
// believed until it replays.
func checkEventLog(ev attest.Evidence, e *attest.TPMEvidence) error {
	if len(ev.EventLog) > attest.MaxTPMEventLog {
		return refuse(CheckEventLogSize, detail{
			Err: errors.New("the event log is too large"), Expected: fmt.Sprintf("at most %d bytes", attest.MaxTPMEventLog), Got: fmt.Sprintf("%d bytes", len(ev.EventLog)),
		})
	}
	switch sum := sha256.Sum256(ev.EventLog); {
	case len(ev.EventLog) == 0 && len(e.EventLogDigest) == 0:
		return nil
	case len(ev.EventLog) == 0:
		return refuse(CheckEventLogDigest, detail{Err: errors.New("the body names an event log that did not come along"), Expected: check.ClipHex(e.EventLogDigest)})
	case !bytes.Equal(sum[:], e.EventLogDigest):
		return refuse(CheckEventLogDigest, detail{Err: errors.New("the event log is not the one that the body names"), Expected: check.ClipHex(e.EventLogDigest), Got: check.ClipHex(sum[:])})
	}
	return nil
}

// logKey names a log and the registers that it is to lead to.
func logKey(logDigest []byte, t *attest.TPM) digest {
	parts := [][]byte{logDigest, []byte(t.Bank)}
	for _, i := range slices.Sorted(maps.Keys(t.PCRs)) {
		parts = append(parts, binary.BigEndian.AppendUint32(nil, uint32(i)), t.PCRs[i])
	}
	return digestOf("event log", parts...)
}

// knownBoot is what a log says that has led to these registers before, or nil.
func (v *Verifier) knownBoot(logDigest []byte, t *attest.TPM) *attest.MeasuredBoot {
	if len(logDigest) == 0 {
		return nil
	}
	m, _ := v.cache.logs.Get(logKey(logDigest, t))
	return m
}

// replay replays the event log to the quoted static registers, unless that is done.
// It costs far more memory than the log has bytes, so that there are no more replays
// at a time than can run.
func (v *Verifier) replay(ctx context.Context, ev attest.Evidence, t *attest.TPM) error {
	if len(ev.EventLog) == 0 || t.Boot != nil {
		return nil
	}
	bank := crypto.SHA256
	if t.Bank == "sha384" {
		bank = crypto.SHA384
	}
	select {
	case v.replays <- struct{}{}:
	case <-ctx.Done():
		return refuse(CheckContext, detail{Err: fmt.Errorf("waiting to replay the event log: %w", ctx.Err())})
	}
	defer func() { <-v.replays }()
	var m *attest.MeasuredBoot
	if err := v.guard(func() (err error) {
		m, err = eventlog.Replay(ev.EventLog, bank, t.PCRs)
		return err
	}); err != nil {
		return err
	}
	t.Boot = m
	sum := sha256.Sum256(ev.EventLog)
	v.cache.logs.Put(logKey(sum[:], t), m)
	return nil
}
