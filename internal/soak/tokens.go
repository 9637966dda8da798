package soak

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
)

// keySet is the JWKS that a relying party fetched at one time, from one of the
// servers.
type keySet struct {
	at   time.Time
	from string
	keys *jwtbundle.Bundle
}

// read fetches a public document of a server.
func (s *server) read(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.web+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}

// fetchKeys keeps the JWKS of a server, as long as relying parties may hold it.
func (r *run) fetchKeys(ctx context.Context, s *server) {
	began := time.Now()
	doc, err := s.read(ctx, "/keys")
	if err != nil {
		return // it is being killed, or started
	}
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return
	}
	keys, err := jwtbundle.Parse(td, doc)
	if err != nil {
		r.violated("JWKS", "that of server %s cannot be read: %v", s.name, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, keySet{began, s.name, keys})
	for len(r.keys) > 1 && began.Sub(r.keys[0].at) > propagation {
		r.keys = r.keys[1:]
	}
}

// holders of key sets are who has the oldest that one may still hold, and who has the
// newest.
func (r *run) keyHolders(now time.Time) []keySet {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) == 0 {
		return nil
	}
	newest := r.keys[len(r.keys)-1]
	for _, k := range r.keys {
		if now.Sub(k.at) <= relyingAge {
			return []keySet{k, newest}
		}
	}
	return []keySet{newest}
}

const (
	mintEvery  = 5 * time.Second
	mintWithin = time.Minute // servers and the database are away for seconds at a time
)

// mint has an agent's workload ask for tokens, and shows them to relying parties,
// until ctx ends.
func (r *run) mint(ctx context.Context, e *enclave) {
	for last := time.Now(); sleep(ctx, mintEvery); {
		token, err := e.token(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return
		case e.banned.Load():
			last = now
		case err == nil:
			last = now
			r.shown(e.number, token, now)
		case now.Sub(last) > mintWithin:
			r.violated("no token", "agent %d was given none for %s: %v", e.number, now.Sub(last).Round(time.Second), err)
			last = now
		}
	}
}

func (e *enclave) token(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience}, workloadapi.WithAddr(e.socket))
	if err != nil {
		return "", err
	}
	return s.Marshal(), nil
}

// shown is what relying parties make of a token that they are shown.
func (r *run) shown(n int, token string, now time.Time) {
	for _, k := range r.keyHolders(now) {
		kid, err := k.verify(token, now)
		if err != nil {
			r.violated("token", "one of agent %d does not verify with the keys of server %s of %s ago: %v", n, k.from, now.Sub(k.at).Round(10*time.Millisecond), err)
			continue
		}
		r.mu.Lock()
		r.minters[kid] = true
		r.report.Tokens++
		r.mu.Unlock()
	}
}

// verify is every way in which a relying party verifies a token; it returns the name
// of the key that signed it.
func (k keySet) verify(token string, now time.Time) (string, error) {
	s, err := jwtsvid.ParseAndValidate(token, k.keys, []string{audience})
	if err != nil {
		return "", fmt.Errorf("go-spiffe: %w", err)
	}
	if want := "spiffe://" + trustDomain + "/soak"; s.ID.String() != want {
		return "", fmt.Errorf("it is of %s, not of %s", s.ID, want)
	}
	if end := now.Add(tokenTTL + time.Second); s.Expiry.After(end) {
		return "", fmt.Errorf("it ends at %s, later than a token may", s.Expiry)
	}
	if _, err := svid.VerifyJWT(token, k.keys, audience, now, svid.Simulated(), svid.Tee(attest.AWSNitro)); err != nil {
		return "", fmt.Errorf("svid: %w", err)
	}
	return kidOf(token)
}
