package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// tableRows is how many rows of a list are in memory at a time, and in one table:
// its columns are as wide as these rows need.
const tableRows = 1000

// streamed prints what a server streams as it comes: JSON a line at a time, text in
// tables of at most tableRows. show is called once with none where there is nothing.
// cursor is where --after goes on after a record.
func streamed[M, R any](c *cobra.Command, a *admin, output cli.Format, limit int, recv func() (M, error), of func(M) R, cursor func(R) string, show func(*cli.Page, []R)) error {
	p := cli.NewPage(c.OutOrStdout())
	var rows []R
	last, n := "", 0
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return a.explain(err)
		}
		r := of(m)
		last = cursor(r)
		n++
		if output == cli.JSON {
			if err := cli.PrintJSONLine(c.OutOrStdout(), r); err != nil {
				return err
			}
			continue
		}
		if rows = append(rows, r); len(rows) == tableRows {
			show(p, rows)
			rows = rows[:0]
		}
	}
	if output == cli.JSON {
		return nil
	}
	if len(rows) > 0 || n == 0 {
		show(p, rows)
	}
	if n > 0 && n == limit && cli.IsTerminal(c.ErrOrStderr()) {
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "(the first %d; --limit 0 lists all, --after %s goes on)\n", limit, last)
	}
	return p.Err()
}
