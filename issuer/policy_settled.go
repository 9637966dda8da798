package issuer

import (
	"os"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/signed"
)

// A file that is being written can be read at any length, and a policy that is
// cut off between two workloads is a policy. It would come into force under the
// new revision, and the whole one would be refused for ever after: its content
// has changed and the revision has not grown. So content counts only once it is
// settled: unchanged for a while, or moved into place by nobody who still writes.

// settleTime is how long a file must be unchanged before its content counts,
// where nothing better can be known.
const settleTime = time.Second

// startPatience is how long a start waits for the policy file to settle.
const startPatience = 15 * time.Second

// look is what one look at the file found, without its content.
type look struct {
	info os.FileInfo
	at   time.Time // when
}

func lookAt(path string) (*look, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return &look{info: info, at: time.Now()}, nil // file times are this machine's, whatever clock the server goes by
}

// same reports whether two looks found the same file, unchanged.
func (l *look) same(m *look) bool {
	return l != nil && m != nil && os.SameFile(l.info, m.info) && l.info.Size() == m.info.Size() &&
		l.info.ModTime().Equal(m.info.ModTime()) && changeTime(l.info).Equal(changeTime(m.info))
}

// old reports whether the last change was a while before the look. Where it was
// not, another change may have left the same times.
func (l *look) old() bool { return l.at.Sub(l.info.ModTime()) >= settleTime }

// fresh is what became of a look at the file.
type fresh struct {
	raw     []byte
	changed bool // raw is there to be judged
	again   bool // the file is being written: look again soon
}

// readChanged reads the file where it has changed and is settled. It is called
// with the lock of looking held.
func (p *PolicyFile) readChanged() (fresh, error) {
	now, err := lookAt(p.path)
	if err != nil {
		return fresh{}, p.unreadable(err)
	}
	if p.haveSeen && p.taken.same(now) && p.taken.old() {
		return fresh{}, nil
	}
	if !p.settled(now) {
		if !p.waiting.same(now) {
			p.waiting = now
		}
		return fresh{again: true}, nil
	}
	raw, err := cli.ReadFile(p.path, signed.MaxSize)
	if err != nil {
		return fresh{}, p.unreadable(err)
	}
	after, err := lookAt(p.path)
	if err != nil {
		return fresh{}, p.unreadable(err)
	}
	if !after.same(now) {
		p.waiting = after
		return fresh{again: true}, nil
	}
	p.taken, p.waiting = now, nil
	return fresh{raw: raw, changed: true}, nil
}

// unreadable forgets what was seen: whatever is there next is looked at, also
// what was there before.
func (p *PolicyFile) unreadable(err error) error {
	p.haveSeen, p.taken, p.waiting = false, nil, nil
	return err
}

// settled reports whether nobody is writing the file any more, as far as can be told.
func (p *PolicyFile) settled(now *look) bool {
	switch {
	case p.taken.same(now), now.old():
		return true
	case p.waiting.same(now) && now.at.Sub(p.waiting.at) >= settleTime:
		return true // its time may lie in the future
	}
	// Another file than before was moved here, or made here. A program that
	// appends to the one that was there opens and closes it as it likes.
	moved := p.taken == nil || !os.SameFile(p.taken.info, now.info)
	return moved && unopened(p.path)
}
