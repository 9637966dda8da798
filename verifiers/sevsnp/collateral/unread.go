package collateral

import (
	"errors"
	"io/fs"
)

// unreadError is that of a file that could not be opened or read: nothing is known
// of its content.
type unreadError struct{ err error }

func (e *unreadError) Error() string { return "it cannot be read: " + e.err.Error() }
func (e *unreadError) Unwrap() error { return e.err }

// unreadable leaves the file's name out: it has the chip's id in it, and the error
// goes further than our own log.
func unreadable(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return &unreadError{err}
}

func isUnread(err error) bool {
	_, ok := errors.AsType[*unreadError](err)
	return ok
}
