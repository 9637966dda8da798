package issuer_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Nothing is believed before signatures are verified, and nothing is read either:
// reading a policy costs seconds and gigabytes.
func TestAPolicyThatLacksSignaturesIsRefusedUnread(t *testing.T) {
	o := open(t)
	option, _ := signers(t, 2, "")
	option(o.policy)
	big := policyText(2) + "waivers: [" + strings.Repeat("aaaaaa,", 2<<20) + "]\n"
	start := time.Now()
	_, err := o.push(big)
	took := time.Since(start)
	if status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
	// Reading it takes more than two seconds.
	if took > time.Second {
		t.Errorf("the refusal took %s", took)
	}
	if c := o.changes()[0]; !c.GetRefused() || c.GetName() != "" || len(c.GetDigest()) != 32 {
		t.Errorf("on record as %v", c)
	}
}

// What was refused for its revision or its name is still told by its name.
func TestARefusedPolicyThatCouldBeReadIsOnRecordByItsName(t *testing.T) {
	o := open(t)
	if _, err := o.push(edited(t, policyText(7), "bundle: test", "bundle: other")); err == nil {
		t.Fatal("in force")
	}
	if c := o.changes()[0]; c.GetName() != "other" || c.GetRevision() != 7 {
		t.Errorf("on record as %v", c)
	}
	o.replacePolicy(edited(t, policyText(1), "30m", "31m"))
	if c := o.changes()[0]; c.GetName() != "test" || c.GetRevision() != 1 || !c.GetRefused() {
		t.Errorf("on record as %v", c)
	}
}

// slow is a valid policy that takes a while to compile.
func slow(revision int) string {
	var b strings.Builder
	b.WriteString(policyText(revision))
	for i := range 6000 {
		fmt.Fprintf(&b, "  - {name: w%d, tee: aws-nitro, mode: enforce, match: {pcr0: {eq: \"%096x\"}, pcr3: {eq: \"%096x\"}}, issue: [{spiffe_id: \"spiffe://{td}/w/%d\", x509_ttl: 1h}]}\n", i, i+1, i+1, i)
	}
	return b.String()
}

// While a policy is compiled, the one in force can be asked for, and changed.
func TestAPolicyThatIsBeingCompiledHoldsUpNobodyWhoHasLeft(t *testing.T) {
	o := open(t)
	text := []byte(slow(2))
	start := time.Now()
	_, err := o.admin().PushPolicy(t.Context(), &assayv1.PushPolicyRequest{Document: text, DryRun: true})
	must(t, err)
	once := time.Since(start)
	// Four who leave at once.
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			_, err := o.admin().PushPolicy(ctx, &assayv1.PushPolicyRequest{Document: text, DryRun: true})
			if status.Code(err) != codes.Canceled {
				t.Errorf("who leaves: %v", err)
			}
		})
	}
	time.Sleep(once / 4)
	cancel()
	wg.Wait()
	start = time.Now()
	_, err = o.push(policyText(2))
	must(t, err)
	if took := time.Since(start); took > 2*once {
		t.Errorf("a small push took %s behind four who had left; one of theirs takes %s", took, once)
	}
}

func TestMorePushesThanMayWaitAreToldToComeAgain(t *testing.T) {
	o := open(t)
	text := []byte(slow(2))
	var mu sync.Mutex
	got := map[codes.Code]int{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			_, err := o.admin().PushPolicy(t.Context(), &assayv1.PushPolicyRequest{Document: text, DryRun: true})
			mu.Lock()
			defer mu.Unlock()
			got[status.Code(err)]++
		})
	}
	wg.Wait()
	if got[codes.OK] < 8 || got[codes.Unavailable] == 0 || got[codes.OK]+got[codes.Unavailable] != 16 {
		t.Errorf("of 16 at once: %v", got)
	}
}
