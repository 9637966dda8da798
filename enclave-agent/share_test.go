package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// as is a call of a user's.
func as(ctx context.Context, uid uint32) context.Context {
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: &caller{uid: uid}})
}

// One user asks, and asks, for what policy does not grant; another one's tokens come.
func TestOneUserTakesNotAllOfTheMinting(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	m := newMints(t, s)
	hold := make(chan struct{})
	s.mint = func(r *assayv1.MintJWTSVIDRequest) (*assayv1.MintJWTSVIDResponse, error) {
		if strings.HasPrefix(r.GetAudience()[0], "junk") {
			<-hold
			return nil, status.Error(codes.PermissionDenied, "no")
		}
		return m.mint(r)
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	now, _, err := a.members[0].state.view()
	if err != nil {
		t.Fatal(err)
	}
	get := func(uid uint32, audience string) error {
		_, err := a.members[0].tokens.get(as(t.Context(), uid), now.svids[0], now.bundle, []string{audience})
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	refused := 0
	for i := range 100 {
		wg.Go(func() {
			if status.Code(get(4711, fmt.Sprint("junk", i))) == codes.ResourceExhausted {
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
	}
	eventually(t, "all but its share are refused", func() bool { mu.Lock(); defer mu.Unlock(); return refused == 100-maxMintingPerUser })
	for i := range 20 {
		if err := get(4712, fmt.Sprint("mine", i)); err != nil {
			t.Errorf("another user's token: %v", err)
		}
	}
	close(hold)
	wg.Wait()
}

// What policy does not grant is remembered for a moment, and not past a change.
func TestATokenThatIsNotGrantedIsNotAskedForAgainAtOnce(t *testing.T) {
	t.Parallel()
	m, a, c := tokenAgent(t)
	m.fail(status.Error(codes.PermissionDenied, "no"))
	for range 5 {
		if _, err := fetchToken(c, "", "vault", "reports"); status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	if n := m.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	m.fail(nil)
	a.members[0].tokens.forget() // as at the server's word
	if _, err := fetchToken(c, "", "vault", "reports"); err != nil {
		t.Error(err)
	}
	for i := range 2 * maxTokens {
		a.members[0].tokens.mu.Lock()
		a.members[0].tokens.remember(tokenKey{"x", fmt.Sprint(i)})
		n := len(a.members[0].tokens.refused)
		a.members[0].tokens.mu.Unlock()
		if n > maxTokens {
			t.Fatalf("%d are remembered", n)
		}
	}
}

func TestATokenIsForItsAudiencesInWhateverOrder(t *testing.T) {
	t.Parallel()
	m, _, c := tokenAgent(t)
	for _, audiences := range [][]string{{"reports", "vault"}, {"vault", "reports"}} {
		if _, err := fetchToken(c, "", audiences...); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.calls.Load(); n != 1 {
		t.Errorf("minted %d times", n)
	}
}

func TestARateIsEachUsersOwn(t *testing.T) {
	t.Parallel()
	u, at := newUserRates(10, 20), time.Now()
	allowed := 0
	for range 100 {
		if ok, _ := u.allow(1, at); ok {
			allowed++
		}
	}
	if ok, _ := u.allow(2, at); !ok || allowed != 20 {
		t.Errorf("one user had %d turns, the other %v", allowed, ok)
	}
	if ok, before := u.allow(1, at.Add(time.Second)); !ok || before != 80 {
		t.Errorf("%v, after %d that were refused", ok, before)
	}
	for i := range uint32(2 * maxRates) {
		u.allow(100+i, at)
	}
	if len(u.byUser) > maxRates {
		t.Errorf("%d users are remembered", len(u.byUser))
	}
	if ok, _ := u.allow(9999, at.Add(time.Hour)); !ok {
		t.Error("users of an hour ago keep a new one out")
	}
}

// A process that connects without end writes some lines of the log, and no more.
func TestCallersWriteTheLogNotFull(t *testing.T) {
	t.Parallel()
	var logs lockedBuffer
	log := slog.New(slog.NewTextHandler(&logs, nil))
	g := newGatekeeper(nil, log)
	own := &svid{selectors: []*assayv1.Selector{{Type: "unix:uid", Value: "1"}}}
	for range 1000 { // as many connections
		ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: &caller{uid: 4711, err: net.ErrClosed}})
		if may, err := g.judge(ctx, []*svid{own}); err != nil || len(may) != 0 {
			t.Fatal(may, err)
		}
	}
	if n := strings.Count(logs.String(), "\n"); n == 0 || n > 8*linesPerSecond {
		t.Errorf("%d lines", n)
	}
}

// What a caller does not read is held for it, up to its user's share.
func TestWhatIsSentAndNotReadIsBounded(t *testing.T) {
	t.Parallel()
	c := newCrowd()
	message := func(n int) *workload.X509BundlesResponse {
		return &workload.X509BundlesResponse{Bundles: map[string][]byte{"spiffe://example.org": make([]byte, n)}}
	}
	call := func(uid uint32) (*unread, context.CancelFunc) {
		ctx, cancel := context.WithCancel(as(context.Background(), uid))
		ctx, err := c.tap(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		return ctx.Value(unreadKey{}).(*unread), cancel
	}
	var ends []context.CancelFunc
	calls := 0
	for ; calls < 1000; calls++ {
		u, end := call(4711)
		ends = append(ends, end)
		if err := u.hold(message(900 << 10)); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				t.Error(err)
			}
			break
		}
		if err := u.hold(message(900 << 10)); err != nil { // the next takes the place of the one before
			t.Fatal(err)
		}
	}
	if calls != maxUnreadPerUser>>20 {
		t.Errorf("%d calls of a MiB each", calls)
	}
	other, end := call(4712)
	defer end()
	if err := other.hold(message(900 << 10)); err != nil {
		t.Errorf("another user: %v", err)
	}
	for _, end := range ends {
		end()
	}
	eventually(t, "all is let go of", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.unread.byUser[4711] == 0 })
}

// On the socket: with large bundles a user's streams come to an end before the memory
// does.
func TestStreamsOfLargeBundlesAreBoundedByTheirBytes(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	big := foreignBundle(t, "big.example.org")
	der := big.GetX509Authorities()[0]
	for len(big.X509Authorities) < maxAuthorities {
		big.X509Authorities = append(big.X509Authorities, der)
	}
	var fed []*assayv1.FederatedBundle
	for i := range 16 {
		b := clone(big)
		b.TrustDomain = fmt.Sprintf("big%d.example.org", i)
		fed = append(fed, b)
	}
	s.issue = func(m *assayv1.AttestResponse) { m.GetIssued().GetBundle().Federated = fed }
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	o, _ := a.offer()
	size := 0
	for _, b := range o.x509Bundles().GetBundles() {
		size += len(b)
	}
	most := shareOfRoot * maxUnreadPerUser / size
	n := 0
	for ; n <= most; n++ {
		_, c := callAgent(t, a)
		st, err := c.FetchX509Bundles(withHeader(t.Context(), "true"), &workload.X509BundlesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); status.Code(err) == codes.ResourceExhausted {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if n > most || n < most/4 {
		t.Errorf("%d streams of %d bytes each, with room for %d bytes", n, size, shareOfRoot*maxUnreadPerUser)
	}
}
