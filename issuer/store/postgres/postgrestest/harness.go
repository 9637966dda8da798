package postgrestest

import (
	"context"
	"fmt"
	"syscall"
)

// What programs use that are no tests: the same as Kill, Restart and Database.

// Crash ends all processes of the server at once, without a word: kill -9.
func (c *Cluster) Crash() error { return c.stop(syscall.SIGKILL) }

// Recover starts the server again, and returns when it answers.
func (c *Cluster) Recover() error { return c.restart() }

// NewDatabase makes an empty database and returns the connection string of its
// superuser.
func (c *Cluster) NewDatabase(ctx context.Context) (string, error) {
	name := fmt.Sprintf("test%d", c.names.Add(1))
	if err := Exec(ctx, c.url("postgres"), `CREATE DATABASE `+name); err != nil {
		return "", err
	}
	return c.url(name), nil
}
