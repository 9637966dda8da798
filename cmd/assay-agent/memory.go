package main

import (
	"log/slog"

	"golang.org/x/sys/unix"
)

// closeMemory keeps this process's memory, and the keys in it, from other processes of
// its user: they can neither trace it nor read /proc/PID/mem, and no core file is made
// (PR_SET_DUMPABLE of prctl(2)). Root is not kept out. What execve starts is as open as
// any process. Only agents do this: of other processes the agent must see the program,
// to tell what they may have.
func closeMemory(log *slog.Logger) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		log.Warn("other processes of this user can read the keys in the agent's memory", "error", err.Error())
	}
}
