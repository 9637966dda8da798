// Package eventlog replays a TCG boot event log to quoted PCR values, and says
// what the measured boot proves.
//
// Firmware and boot loaders extend digests into PCRs, PCR = H(PCR ‖ digest), and
// write each down in a log (TCG PC Client Platform Firmware Profile, section 10;
// TCG EFI Protocol Specification, section 5). A TPM signs the PCRs and knows no
// log: whoever sends the log may write into it what they like. So all that is
// known of a log is which digests it must hold, and in which order, for each PCR by
// itself. Nothing else in it is measured:
//
//   - not the type of an event, so that no claim rests on a type alone
//   - not an event's data, unless the data hashes to the digest; often they are but
//     a description of what was hashed
//   - not the order of events of different PCRs
//   - not that the log is complete in a PCR which the quote does not cover
//   - not who extended a digest: after the separator that ends the firmware's part
//     of a PCR, and from the start in PCRs 8 to 15, later software has its say,
//     down to root on the running machine, who can append but never take away
//
// [Replay] works in three steps. A strict decoder of our own takes the log apart,
// with every length bounded by what is there. Each PCR is then replayed twice, by
// this package and by go-eventlog, which must agree; a PCR without events is not
// replayed, where the library would call it a success. Claims are made last, from
// digests, and from data that hash to theirs. They are made of go-eventlog's events
// in no part: its extractors panic on event types that they do not know, take the
// label of a GRUB event for its meaning, and look for the end of the boot across
// PCRs.
//
// Logs exist in two formats, the crypto-agile one of TPM 2.0 and that of TPM 1.2,
// with SHA-1 only; both are read.
package eventlog
