package ledger

import (
	"context"
	"errors"
	"time"
)

// Action is one call of an administrator, refused ones too: what the chain says
// of it. Texts beyond 4 kB are cut.
type Action struct {
	Actor   string    `json:"actor"`            // "uid 1000", a SPIFFE ID
	Role    string    `json:"role,omitempty"`   // by which it was allowed
	Method  string    `json:"method"`           // of the API
	Target  string    `json:"target,omitempty"` // what it was about: an instance, an authority
	Detail  string    `json:"detail,omitempty"`
	Outcome string    `json:"outcome"` // "done", or why it was not
	At      time.Time `json:"at"`
}

const maxActionText = 4096

// RecordAction chains the action and returns its sequence number when it is
// durable. Errors are as of [Ledger.Record]; an action of nobody, or of no
// method, is Internal (ledger_action).
func (l *Ledger) RecordAction(ctx context.Context, a Action) (sequence uint64, err error) {
	if a.Actor == "" || a.Method == "" || a.Outcome == "" {
		return 0, internal("ledger_action", errors.New("an action has an actor, a method and an outcome"))
	}
	if a.At.IsZero() {
		a.At = l.opt.Now()
	}
	a.At = a.At.UTC().Round(0)
	for _, text := range []*string{&a.Actor, &a.Role, &a.Method, &a.Target, &a.Detail, &a.Outcome} {
		*text = clip(*text, maxActionText)
	}
	e := l.envelope(Admin, NewReference())
	e.Action = &a
	done, err := l.append(ctx, e)
	if err != nil {
		return 0, err
	}
	return done.sequence, nil
}
