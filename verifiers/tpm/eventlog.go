package tpm

import (
	"bytes"
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

// boot replays the event log to the quoted static registers. One that replayed to
// the same values before is known.
func (v *Verifier) boot(log, logDigest []byte, b *bank, pcrs map[int]attest.Bytes, f *fresh) (*attest.MeasuredBoot, error) {
	if len(log) == 0 {
		return nil, nil
	}
	parts := [][]byte{logDigest, []byte(b.name)}
	for _, i := range slices.Sorted(maps.Keys(pcrs)) {
		parts = append(parts, binary.BigEndian.AppendUint32(nil, uint32(i)), pcrs[i])
	}
	sum := digestOf("event log", parts...)
	if m, ok := v.cache.logs.Get(sum); ok {
		return m, nil
	}
	var m *attest.MeasuredBoot
	if err := v.guard(func() (err error) {
		m, err = eventlog.Replay(log, b.hash, pcrs)
		return err
	}); err != nil {
		return nil, err
	}
	f.logs = map[digest]*attest.MeasuredBoot{sum: m}
	return m, nil
}
