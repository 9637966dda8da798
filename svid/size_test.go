package svid

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// The policy compiler lets measurements and attributes take 3072 bytes. With
// the longest names beside them, the result still fits.
func TestAResultWithAllThatAPolicyMayAddFits(t *testing.T) {
	a := nitroAppraisal()
	a.Policy = strings.Repeat("p", 63) + "@9007199254740991"
	a.Publish, a.Attributes = nil, map[string]string{}
	size := 0
	for i := 5; i < 32; i++ {
		pcr := make([]byte, 48)
		_, _ = rand.Read(pcr)
		a.Claims.Nitro.PCRs[i] = attest.Bytes(pcr)
		a.Publish = append(a.Publish, pcrName(i))
		size += len(pcrName(i)) + 48 + 6
	}
	for i := 0; size < 3072; i++ {
		room := min(3072-size-6, 63+128)
		if room < 8 {
			break
		}
		name := fmt.Sprintf("a%02d%s", i, strings.Repeat("n", min(60, room/3)))
		a.Attributes[name] = string(bytes.Repeat([]byte("v"), max(room-len(name), 1)))
		size += room + 6
	}
	td := "simulated." + strings.Repeat("a", 60) + ".example"
	id := spiffeid.RequireFromString("spiffe://" + td + "/" + strings.Repeat("i", 127-len("spiffe://"+td+"/")))
	a.Claims.Simulated = true
	r, err := Appraise(a, id, testKey(t, "leaf").Public(), issued, expires, td)
	if err != nil {
		t.Fatal(err)
	}
	cwt, err := r.Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes that a policy added make a result of %d", size, len(cwt))
	if size < 3000 || len(cwt) < size {
		t.Errorf("the test is not about a large result: %d of %d", size, len(cwt))
	}
}
