package tpm

import (
	"bytes"
	"slices"
)

// logFaults are those of the event log.
func logFaults() []Fault {
	return []Fault{
		malformed("event-log-truncated", "event_log_structure", "the event log ends in the middle of an event").eventLog(func(_ Boot, log []byte) ([]byte, error) {
			return log[:len(log)-5], nil
		}),
		untrusted("event-log-other-boot", "event_log_replay", "the event log is that of another image").eventLog(func(b Boot, _ []byte) ([]byte, error) {
			b.Image += "-another"
			m, err := Measurements(b)
			if err != nil {
				return nil, err
			}
			return m.Log, nil
		}),
		untrusted("event-log-event-missing", "event_log_replay", "the event log leaves an event out").eventLog(func(b Boot, _ []byte) ([]byte, error) {
			return relog(b, func(e []event) []event { return e[:len(e)-1] })
		}),
		untrusted("event-log-event-added", "event_log_replay", "the event log has an event that was not measured").eventLog(func(b Boot, _ []byte) ([]byte, error) {
			return relog(b, func(e []event) []event {
				return append(e, event{pcr: 4, kind: evBootApplication, measured: []byte("not measured"), data: imageLoad(12, filePath(`\EFI\another.efi`))})
			})
		}),
		harmless("event-log-data-forged", "the event log shows another command line than was measured: its digests are right, and nobody may believe the text").eventLog(func(b Boot, log []byte) ([]byte, error) {
			line, instead := []byte(b.CommandLine), bytes.Repeat([]byte("x"), len(b.CommandLine))
			log = bytes.ReplaceAll(slices.Clone(log), line, instead)
			return bytes.ReplaceAll(log, utf16le(b.CommandLine), utf16le(string(instead))), nil
		}),
	}
}

// relog writes a log with other events.
func relog(b Boot, change func([]event) []event) ([]byte, error) {
	events, err := b.events()
	if err != nil {
		return nil, err
	}
	return encodeLog(change(events)), nil
}
