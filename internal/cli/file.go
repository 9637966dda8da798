package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// ReadFile reads a file of at most limit bytes that somebody configured. It
// refuses what is not a regular file: reading a FIFO or a terminal could wait
// for ever, and no signal would end it.
func ReadFile(path string, limit int64) (body []byte, err error) {
	// Without O_NONBLOCK the opening of a FIFO would wait already.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("not a regular file (%v)", info.Mode().Type())}
	}
	if body, err = io.ReadAll(io.LimitReader(f, limit+1)); err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return body, nil
}
