package ledger

// For tests that forge chains and checkpoints.
var (
	EntryHash = entryHash
	SignNote  = signNote
)
