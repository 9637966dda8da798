package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// story prints what happens, for a person: a numbered step, what was done, and
// the commands with which the reader can look further.
type story struct {
	w     io.Writer
	begin time.Time
	step  int
}

func (s *story) chapter(format string, a ...any) {
	s.step++
	_, _ = fmt.Fprintf(s.w, "\n%d. %s  [%.1fs]\n", s.step, fmt.Sprintf(format, a...), time.Since(s.begin).Seconds())
}

func (s *story) say(format string, a ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, a...)) {
		_, _ = fmt.Fprintf(s.w, "   %s\n", strings.TrimRight(line, "\n"))
	}
}

// quote shows what a command printed, under the command itself.
func (s *story) quote(command, output string, keep func(line string) bool) {
	_, _ = fmt.Fprintf(s.w, "   $ %s\n", command)
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if keep == nil || keep(line) {
			_, _ = fmt.Fprintf(s.w, "     %s\n", line)
		}
	}
}
