package issuer

import (
	"container/list"
	"sync"
)

// waitingRoom holds the attestations whose evidence has not verified: so many
// in all, and so many from one address. When it is full, whoever comes takes the
// place of the one that has waited longest for its own client, from the same
// address, or from the address that holds most places. So a stranger who fills
// it with streams that say nothing loses them one by one, and those who answer
// promptly pass, also from behind the same NAT or balancer. It never limits how
// often an address comes.
//
// What an attestation holds in bytes (a TPM's boot log, as far as it has come)
// is bounded in the same way.
type waitingRoom struct {
	max, maxPerAddress int
	maxBytes           int64

	mu        sync.Mutex
	n         int
	bytes     int64
	byAddress map[string]*corner
}

// corner is what one address holds.
type corner struct {
	n     int        // places
	bytes int64      // what they hold
	idle  *list.List // of *place, those that wait for their client; the longest first
}

// place is one attestation's. It is given up by leave, or lost to another.
type place struct {
	room    *waitingRoom
	address string
	bytes   int64
	lose    func()        // ends the attestation
	at      *list.Element // in idle; nil while it does not wait
	gone    bool
}

func newWaitingRoom(limit, perAddress int, maxBytes int64) *waitingRoom {
	return &waitingRoom{max: limit, maxPerAddress: perAddress, maxBytes: maxBytes, byAddress: map[string]*corner{}}
}

// resize changes the limits. Who is inside stays inside.
func (r *waitingRoom) resize(limit, perAddress int, maxBytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.max, r.maxPerAddress, r.maxBytes = limit, perAddress, maxBytes
}

// enter takes a place. lose is called, at most once, when another takes it over.
// displaced says whose: "" for nobody's. With no place to be had, p is nil and
// limit names why.
func (r *waitingRoom) enter(address string, lose func()) (p *place, displaced, limit string) {
	p, victim, displaced, limit := r.take(address, lose)
	if victim != nil {
		victim.lose() // what it does may come back here
	}
	return p, displaced, limit
}

func (r *waitingRoom) take(address string, lose func()) (p, victim *place, displaced, limit string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.byAddress[address]
	switch {
	case c != nil && c.n >= r.maxPerAddress:
		if victim = r.displace(c); victim == nil {
			return nil, nil, "", limitAddress
		}
		displaced = limitAddress
	case r.n >= r.max:
		if victim = r.displace(r.largest()); victim == nil {
			return nil, nil, "", limitTotal
		}
		displaced = limitTotal
	}
	if c = r.byAddress[address]; c == nil { // displacing may have removed it
		c = &corner{idle: list.New()}
		r.byAddress[address] = c
	}
	p = &place{room: r, address: address, lose: lose}
	p.at = c.idle.PushBack(p)
	c.n++
	r.n++
	return p, victim, displaced, ""
}

// displace takes the place of who waits longest in a corner, if anybody does. The
// caller tells them, without the lock.
func (r *waitingRoom) displace(c *corner) *place {
	if c == nil || c.idle.Len() == 0 {
		return nil
	}
	p, ok := c.idle.Front().Value.(*place)
	if !ok {
		return nil
	}
	r.remove(p)
	return p
}

// largest is the corner that holds most places and has somebody who waits.
func (r *waitingRoom) largest() *corner {
	var most *corner
	for _, c := range r.byAddress {
		if c.idle.Len() > 0 && (most == nil || c.n > most.n) {
			most = c
		}
	}
	return most
}

// remove gives up a place; the caller holds the lock.
func (r *waitingRoom) remove(p *place) {
	if p.gone {
		return
	}
	p.gone = true
	c := r.byAddress[p.address]
	if p.at != nil {
		c.idle.Remove(p.at)
		p.at = nil
	}
	r.n--
	r.bytes -= p.bytes
	c.bytes -= p.bytes
	p.bytes = 0
	if c.n--; c.n == 0 {
		delete(r.byAddress, p.address)
	}
}

// inside is how many places are taken.
func (r *waitingRoom) inside() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// holding is how many bytes the places hold.
func (r *waitingRoom) holding() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// hold counts n more bytes that the place holds, until it is given up. Where
// there is no room for them, those that wait give up theirs: of the address that
// holds most, who waits longest. It is false when there is still none, or when
// the place is lost. took is how many places were taken over.
func (p *place) hold(n int64) (took int, ok bool) {
	r := p.room
	r.mu.Lock()
	defer r.mu.Unlock()
	for !p.gone && r.bytes+n > r.maxBytes {
		victim := r.heaviest()
		if victim == nil || victim == p {
			return took, false
		}
		r.remove(victim)
		victim.lose()
		took++
	}
	if p.gone {
		return took, false
	}
	p.bytes += n
	r.bytes += n
	r.byAddress[p.address].bytes += n
	return took, true
}

// heaviest is the place that has waited longest of those that hold anything, at
// the address that holds most; nil when nobody waits who holds anything.
func (r *waitingRoom) heaviest() *place {
	var most *corner
	var victim *place
	for _, c := range r.byAddress {
		if most != nil && c.bytes <= most.bytes {
			continue
		}
		for e := c.idle.Front(); e != nil; e = e.Next() {
			if p, ok := e.Value.(*place); ok && p.bytes > 0 {
				most, victim = c, p
				break
			}
		}
	}
	return victim
}

// wait says that the client is waited for once more: others may take the place
// over until it is kept again. It is false where somebody has already.
func (p *place) wait() bool {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if p.gone {
		return false
	}
	if p.at == nil {
		p.at = p.room.byAddress[p.address].idle.PushBack(p)
	}
	return true
}

// leave gives the place up. It may be called many times.
func (p *place) leave() {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	p.room.remove(p)
}

// keep says that the client has answered: what is left is for the server to do,
// and nobody takes the place over. It is false where somebody has already.
func (p *place) keep() bool {
	p.room.mu.Lock()
	defer p.room.mu.Unlock()
	if p.gone {
		return false
	}
	if p.at != nil {
		p.room.byAddress[p.address].idle.Remove(p.at)
		p.at = nil
	}
	return true
}
