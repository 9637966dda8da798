package issuer

import (
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
)

// eventLogChunk is the size of every chunk of an event log but the last.
const eventLogChunk = 48 << 10 // bytes

// receiveEventLog reads the boot event log that follows a TPM's evidence: as
// many bytes as were declared, in full chunks. A stranger may send it before
// anything is known of them, so that what is held is counted as it comes, and
// given up with the place. Nobody needs a log to attest. Checks: event_log_size,
// event_log_chunk, protocol_order (malformed), deadline (stale), event_log_room
// (unavailable).
func (a *attestation) receiveEventLog(p *place, size uint32, deadline time.Time) ([]byte, error) {
	if size > attest.MaxTPMEventLog {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "event_log_size", Err: errors.New("the event log is too large"),
			Expected: fmt.Sprintf("at most %d bytes", attest.MaxTPMEventLog), Got: fmt.Sprint(size),
			Hint: "attest without the log: policy can match the registers alone",
		}
	}
	var log []byte
	for len(log) < int(size) {
		msg, err := a.receiveBy(deadline)
		if err != nil {
			return nil, err
		}
		chunk := msg.GetEventLog()
		if chunk == nil {
			return nil, outOfOrder("a chunk of the event log is missing")
		}
		if want := min(eventLogChunk, int(size)-len(log)); len(chunk.GetData()) != want {
			return nil, &attest.Error{
				Kind: attest.Malformed, Check: "event_log_chunk", Err: fmt.Errorf("chunk %d of the event log has a wrong size", len(log)/eventLogChunk+1),
				Expected: fmt.Sprintf("%d bytes: every chunk but the last is full", want), Got: fmt.Sprint(len(chunk.GetData())),
			}
		}
		took, ok := p.hold(int64(len(chunk.GetData())))
		a.metrics.limited.WithLabelValues("displaced", limitBytes).Add(float64(took))
		if !ok {
			a.metrics.limited.WithLabelValues("event_log", limitTotal).Inc()
			return nil, overloaded("event_log_room", "there is no room for another event log")
		}
		if log == nil {
			// It grows with what has come, so that a declared size alone takes nothing.
			log = make([]byte, 0, min(int(size), 4*eventLogChunk))
		}
		log = append(log, chunk.GetData()...)
	}
	return log, nil
}
