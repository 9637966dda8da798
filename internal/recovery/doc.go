// Package recovery holds the tests of docs/guides/recovery.md: each loss that the
// guide tells of is made, and mended by the guide's commands, with servers and
// agents as processes.
package recovery
