package strictyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxErrors bounds the problems that one report holds. The last one of a full
// report says that there were more.
const MaxErrors = 100

// Error is one problem in a file.
type Error struct {
	File   string // as given to [Open]
	Line   int    // from 1
	Col    int    // from 1, in characters; 0 when only the line is known
	Code   string // names the kind of problem, where the program gives it one
	Msg    string // what is wrong
	Hint   string // what to do about it; may be empty
	Source string // the line, or the part of a long line around the column
	Caret  int    // characters of Source before the column
}

// Error returns "file:line:col: message", and the code in brackets if there is
// one.
func (e *Error) Error() string {
	if e.Code == "" {
		return e.Position() + ": " + e.Msg
	}
	return e.Position() + ": " + e.Msg + " [" + e.Code + "]"
}

// Position returns "file:line:col".
func (e *Error) Position() string {
	if e.Col == 0 {
		return e.File + ":" + strconv.Itoa(e.Line)
	}
	return e.File + ":" + strconv.Itoa(e.Line) + ":" + strconv.Itoa(e.Col)
}

// Render draws the problem for people: the message, the source line with a
// caret under the place, and the hint.
func (e *Error) Render() string {
	var b strings.Builder
	e.render(&b)
	return b.String()
}

func (e *Error) render(b *strings.Builder) {
	b.WriteString(e.Error())
	b.WriteByte('\n')
	if strings.TrimSpace(e.Source) != "" {
		n := strconv.Itoa(e.Line)
		fmt.Fprintf(b, " %s | %s\n", n, e.Source)
		if e.Col > 0 {
			fmt.Fprintf(b, " %s | %s^\n", strings.Repeat(" ", len(n)), pad(e.Source, e.Caret))
		}
	}
	if e.Hint != "" {
		fmt.Fprintf(b, "   hint: %s\n", e.Hint)
	}
}

// pad returns as much blank as the first n characters of s take on a terminal:
// tabs stay tabs, so that the caret lines up.
func pad(s string, n int) string {
	var b strings.Builder
	for _, r := range s {
		if n <= 0 {
			break
		}
		n--
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// Errors is a list of problems, sorted by position.
type Errors []*Error

// Error joins the messages, one a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a single [*Error].
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// Render draws every problem, each as [Error.Render] does.
func (es Errors) Render() string {
	var b strings.Builder
	for _, e := range es {
		e.render(&b)
	}
	return b.String()
}

// sorted returns the problems by position, without repetitions, and without
// the cap's excess.
func (es Errors) sorted() Errors {
	out := slices.Clone(es)
	slices.SortStableFunc(out, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Msg, b.Msg))
	})
	return slices.CompactFunc(out, func(a, b *Error) bool { return *a == *b })
}
