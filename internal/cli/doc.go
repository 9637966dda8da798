// Package cli is what Assay's commands have in common: exit codes, how an
// error is printed, output formats, and the version command.
//
// The rules of output, which every command obeys:
//
//   - The result goes to standard output; errors, hints, warnings and progress
//     go to standard error. Standard output can always be piped.
//   - An error is one "error:" line. When there is something to do about it, a
//     "hint:" line follows.
//   - `--output json` prints JSON only, with stable snake_case names; nothing
//     but the exit code differs between a good and a bad result's shape.
//   - Nothing is coloured. Progress is shown on a terminal only.
//   - Text that a stranger may have chosen passes through [Escape], so that a
//     module name cannot move the cursor or hide the line above it.
//   - The exit code says who must act; scripts never parse messages.
package cli
