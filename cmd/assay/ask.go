package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
)

// ask connects to a server, puts one question to one of its services, and hangs up:
// what most commands do between reading flags and printing. What the server did is
// durable when it answers, so that hanging up can fail without harm. explain turns
// what the server did not do into what the user is told.
func ask[C io.Closer, Q, R any](c *cobra.Command, open func(target string) (C, error), target string,
	call func(C, context.Context, Q, ...grpc.CallOption) (R, error), question Q, explain func(C, error) error) (R, error) {
	var none R
	client, err := open(target)
	if err != nil {
		return none, err
	}
	defer func() { _ = client.Close() }()
	answer, err := call(client, c.Context(), question)
	if err != nil {
		return none, explain(client, err)
	}
	return answer, nil
}

// missing is how to explain, where what was named may not be there, and where to look
// for what is.
func missing(hint string) func(*agentsClient, error) error {
	return func(a *agentsClient, err error) error { return a.missing(err, hint) }
}
