package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// considered bounds the names that are compared with a misspelt word.
const considered = 500

// Nearest returns the name that a misspelt word was most likely meant to be,
// or "" where none is close. Of very many names it looks at the first.
func Nearest(word string, names []string) string {
	if len(word) > 64 {
		return ""
	}
	names = names[:min(len(names), considered)]
	best, bestDist := "", 1+max(1, len(word)/3)
	for _, n := range names {
		if len(n) > 64 {
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(n)); d < bestDist {
			best, bestDist = n, d
		}
	}
	return best
}

// Suggest turns names into a hint for an unknown word: the nearest one if
// there is one, and the list, which it sorts.
func Suggest(word string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	sorted := slices.Clone(names[:min(len(names), considered)])
	slices.Sort(sorted)
	list := strings.Join(sorted, ", ")
	if len(sorted) > 40 {
		list = strings.Join(sorted[:40], ", ") + ", …"
	}
	if n := Nearest(word, sorted); n != "" {
		return fmt.Sprintf("did you mean %q? Known here: %s", n, list)
	}
	return "known here: " + list
}

// Suggest is the function [Suggest] while problems are still listed: who writes
// a thousandth one gets no hint with it.
func (d *Document) Suggest(word string, names []string) string {
	if d.Full() {
		return ""
	}
	return Suggest(word, names)
}

// distance is the Damerau–Levenshtein distance (optimal string alignment) of
// two short strings.
func distance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
