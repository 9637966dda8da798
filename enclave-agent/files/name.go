package files

import (
	"strconv"
	"strings"
)

// What the names of an identity's files begin with.
const (
	svidFile   = "svid"
	bothFile   = "svid-with-key"
	bundleFile = "bundle"
)

// name is the place of an identity: that of a trust domain, which is "" for the agent's
// first, and its number there. So no file changes its name because the server of
// another trust domain is away.
type name struct {
	td string
	n  int
}

// of is the name of a file: svid.pem of the first identity, svid.1.pem of the second;
// of another trust domain svid.0.TD.pem, svid.1.TD.pem.
func (n name) of(what, suffix string) string {
	switch {
	case n.td != "":
		return what + "." + strconv.Itoa(n.n) + "." + n.td + suffix
	case n.n != 0:
		return what + "." + strconv.Itoa(n.n) + suffix
	}
	return what + suffix
}

// parseName reads what of makes.
func parseName(file string) (n name, ok bool) {
	for _, what := range []string{svidFile, bothFile, bundleFile} {
		rest, cut := strings.CutPrefix(file, what+".")
		if !cut {
			continue
		}
		middle, cut := strings.CutSuffix("."+rest, ".pem")
		if !cut {
			if middle, cut = strings.CutSuffix("."+rest, ".key"); !cut {
				return name{}, false
			}
		}
		if middle == "" {
			return name{}, true
		}
		number, td, _ := strings.Cut(middle[1:], ".")
		i, err := strconv.Atoi(number)
		n = name{td: td, n: i}
		return n, err == nil && i >= 0 && n.of(what, file[len(file)-len(".pem"):]) == file
	}
	return name{}, false
}
