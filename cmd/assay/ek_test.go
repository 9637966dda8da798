package main

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/tpms"
)

func TestTheInventoryIsReadFromADatabaseFileToo(t *testing.T) {
	o := newOffice(t)
	path := ca.DatabasePath(o.dir)
	db, err := store.OpenSQLite(t.Context(), path)
	check(t, err)
	r, err := tpms.Open(t.Context(), db, o.TrustDomain, o.Now)
	check(t, err)
	_, _, err = r.Add(t.Context(), []tpms.Entry{{EK: tpms.EK{0xaa}, Group: "rack-4", Note: "host\u202e17"}, {EK: tpms.EK{0xbb}, Group: "rack-5"}}, false)
	check(t, err)
	check(t, r.Remember(t.Context(), store.TPMBinding{EK: tpms.EK{0xaa}, AK: []byte{1}, At: o.Now()}))
	check(t, db.Close())

	got := assay(t, nil, "ek", "list", "--db", path)
	if got.code != 0 || !strings.Contains(got.stdout, "rack-4") || !strings.Contains(got.stdout, "bb000000") || strings.Contains(got.stdout, "\u202e") {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	got = assay(t, nil, "ek", "list", "--db", path, "--group", "rack-4", "--output", "json")
	if got.code != 0 || strings.Count(got.stdout, "\n") != 1 || !strings.Contains(got.stdout, `"activated":"2026-11-20T`) {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	for _, args := range []string{"ek add --db x 00", "ek remove --db x 00", "ek import --db x y.csv"} {
		if got := assay(t, nil, strings.Fields(args)...); got.code != cli.Usage {
			t.Errorf("%s: exit code %d", args, got.code)
		}
	}
}

// Whatever a file holds, each of its lines is an entry or an error, and what is
// taken is what an inventory takes.
func FuzzImport(f *testing.F) {
	const ek = "00000000000000000000000000000000000000000000000000000000000000aa"
	for _, s := range []string{"ek,group,note\n" + ek + ",a,b\n", "\xef\xbb\xbfEK\n" + ek, `{"ek":"` + ek + `"}`, "ek\n\"" + ek, "{}\n[]", "note,ek\n\"a\nb\"," + ek, ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, file string) {
		for _, read := range []func(*importer, []byte){(*importer).csv, (*importer).jsonl} {
			i := &importer{name: "f", group: defaultGroup, seen: map[tpms.EK]int{}}
			read(i, []byte(file))
			if len(i.entries) != len(i.seen) {
				t.Fatalf("%d entries of %d TPMs", len(i.entries), len(i.seen))
			}
			for _, e := range i.entries {
				if err := e.Check(); err != nil {
					t.Fatal(err)
				}
			}
			for _, e := range i.errs {
				if e.Line < 1 || e.Msg == "" {
					t.Fatalf("%+v", e)
				}
			}
		}
	})
}

func FuzzEKOf(f *testing.F) {
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"))
	f.Add([]byte{0x30, 0x82})
	f.Add([]byte{0, 1, 0, 11})
	f.Fuzz(func(t *testing.T, file []byte) {
		if ek, err := ekOf(file); err == nil && ek == (tpms.EK{}) {
			t.Fatal("a key without a digest")
		}
	})
}
