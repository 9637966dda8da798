package issuer_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func ekOf(n byte) []byte { return append([]byte{n}, make([]byte, 31)...) }

// addTPMs streams the entries, one a message.
func (o *office) addTPMs(replace bool, keys ...*assayv1.EndorsementKey) (*assayv1.AddEndorsementKeysResponse, error) {
	o.t.Helper()
	stream, err := o.admin().AddEndorsementKeys(o.t.Context())
	must(o.t, err)
	for i, k := range keys {
		if stream.Send(&assayv1.AddEndorsementKeysRequest{Keys: []*assayv1.EndorsementKey{k}, Replace: replace && i == 0}) != nil {
			break // the reason comes with the answer
		}
	}
	return stream.CloseAndRecv()
}

func (o *office) inventory(group string) (out []string) {
	o.t.Helper()
	stream, err := o.admin().ListEndorsementKeys(o.t.Context(), &assayv1.ListEndorsementKeysRequest{Group: group})
	must(o.t, err)
	for {
		k, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(o.t, err)
		if k.GetAddedUnixMs() == 0 || len(k.GetEk()) != 32 {
			o.t.Errorf("%v", k)
		}
		out = append(out, string('0'+rune(k.GetEk()[0]))+" "+k.GetGroup()+" "+k.GetNote())
	}
}

func TestOperatorsKeepAnInventoryOfTPMs(t *testing.T) {
	o := open(t)
	entry := func(n byte, group, note string) *assayv1.EndorsementKey {
		return &assayv1.EndorsementKey{Ek: ekOf(n), Group: group, Note: note}
	}
	r, err := o.addTPMs(false, entry(2, "b", "two"), entry(1, "b", ""), entry(3, "a", ""))
	if err != nil || r.GetAdded() != 3 || r.GetReplaced() != 0 {
		t.Fatalf("%v, %v", r, err)
	}
	if got := strings.Join(o.inventory(""), "; "); got != "3 a ; 1 b ; 2 b two" {
		t.Errorf("listed %q", got)
	}
	if got := strings.Join(o.inventory("b"), "; "); got != "1 b ; 2 b two" {
		t.Errorf("of one group: %q", got)
	}
	_, err = o.addTPMs(false, entry(4, "c", ""), entry(1, "c", ""))
	if status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "0100000000") {
		t.Errorf("a conflict: %v", err)
	}
	r, err = o.addTPMs(true, entry(4, "c", ""), entry(1, "c", ""))
	if err != nil || r.GetAdded() != 1 || r.GetReplaced() != 1 {
		t.Errorf("%v, %v", r, err)
	}
	_, err = o.admin().RemoveEndorsementKeys(t.Context(), &assayv1.RemoveEndorsementKeysRequest{Ek: [][]byte{ekOf(1), ekOf(9)}})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "0900000000") {
		t.Errorf("one that is not there: %v", err)
	}
	_, err = o.admin().RemoveEndorsementKeys(t.Context(), &assayv1.RemoveEndorsementKeysRequest{Ek: [][]byte{ekOf(1), ekOf(1), ekOf(3)}})
	must(t, err)
	if got := strings.Join(o.inventory(""), "; "); got != "2 b two; 4 c " {
		t.Errorf("listed %q", got)
	}
	for _, want := range []string{`msg="TPM inventory changed" added=3 replaced=0`, `msg="TPM in the inventory" ek=0200000000`, `msg="TPM taken out of the inventory" ek=0300000000`} {
		if !strings.Contains(o.log.String(), want) {
			t.Errorf("the log does not have %s", want)
		}
	}
}

func TestAnInventoryTakesOnlyWhatNamesATPM(t *testing.T) {
	o := open(t)
	for name, keys := range map[string][]*assayv1.EndorsementKey{
		"nothing":         nil,
		"a short key":     {{Ek: ekOf(1)[:31], Group: "a"}},
		"no key":          {{Group: "a"}},
		"a zero key":      {{Ek: make([]byte, 32), Group: "a"}},
		"no group":        {{Ek: ekOf(1)}},
		"a bad group":     {{Ek: ekOf(1), Group: "rack 4"}},
		"a long note":     {{Ek: ekOf(1), Group: "a", Note: strings.Repeat("x", 257)}},
		"one twice":       {{Ek: ekOf(1), Group: "a"}, {Ek: ekOf(1), Group: "b"}},
		"one bad of many": {{Ek: ekOf(1), Group: "a"}, {Ek: ekOf(2), Group: ""}},
	} {
		if _, err := o.addTPMs(true, keys...); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := o.inventory(""); len(got) != 0 {
		t.Errorf("listed %v", got)
	}
	for _, eks := range [][][]byte{nil, {ekOf(1)[:5]}} {
		if _, err := o.admin().RemoveEndorsementKeys(t.Context(), &assayv1.RemoveEndorsementKeysRequest{Ek: eks}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("removing %v: %v", eks, err)
		}
	}
}
