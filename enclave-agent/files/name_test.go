package files

import "testing"

func TestANameSaysWhichIdentityOfWhichTrustDomain(t *testing.T) {
	for file, want := range map[string]name{
		"svid.pem": {}, "svid.key": {}, "svid-with-key.pem": {}, "bundle.pem": {},
		"svid.1.pem": {n: 1}, "bundle.15.pem": {n: 15}, "svid.3.key": {n: 3},
		"svid.0.example.org.pem": {td: "example.org"}, "svid-with-key.2.example.org.pem": {td: "example.org", n: 2}, "svid.0.1.key": {td: "1"},
		"svid.1.pem.pem": {td: "pem", n: 1}, "svid.0.a.1.pem": {td: "a.1"},
	} {
		got, ok := parseName(file)
		if !ok || got != want {
			t.Errorf("%s: %+v %v, want %+v", file, got, ok, want)
		}
	}
	for _, file := range []string{"", "svid", "svid.", "svid.txt", "svid.x.pem", "svid.-1.pem", "svid.01.pem", "svid.0.pem", "svid..pem", "svid.1..pem", "federated.example.org.pem", "aws-token", "other.pem"} {
		if got, ok := parseName(file); ok {
			t.Errorf("%s is read as %+v", file, got)
		}
	}
}

// No two identities have one name, whatever their trust domains are called.
func TestNoTwoIdentitiesHaveOneName(t *testing.T) {
	taken := map[string]name{}
	for _, td := range []string{"", "1", "0", "pem", "key", "1.pem", "a", "a.1", "1.a", "svid", "0.0"} {
		for n := range 3 {
			for _, f := range []string{name{td, n}.of(svidFile, ".pem"), name{td, n}.of(svidFile, ".key"), name{td, n}.of(bothFile, ".pem"), name{td, n}.of(bundleFile, ".pem")} {
				if other, ok := taken[f]; ok {
					t.Errorf("%s is of %+v and of %+v", f, other, name{td, n})
				}
				taken[f] = name{td, n}
			}
		}
	}
}
