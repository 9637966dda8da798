package policy

import "slices"

// division is a list of workloads, or two, divided by one claim.
type division struct {
	field   *field
	parts   []*portion // those with the same set of values
	meeting [][]int    // later parts that have a value in common with each
	named   [2][]*workload
	rest    [2][]*workload // those that do not name the claim
}

// portion are the workloads of either list with one set of values.
type portion struct {
	values        *set
	first, second []*workload
}

// divide chooses the claim that leaves the fewest pairs, and divides by it; nil
// where no claim leaves much fewer than there are.
func (g *pairing) divide(first, second []*workload, done []*field) *division {
	pairs := len(first) * len(second)
	if second == nil {
		pairs = len(first) * (len(first) - 1) / 2
	}
	if pairs <= fewWorkloads*fewWorkloads/2 {
		return nil
	}
	named := make([]bool, len(first[0].tee.fields))
	for _, ws := range [][]*workload{first, second} {
		for _, w := range ws {
			g.p.effort += len(w.rules)
			for _, r := range w.rules {
				named[r.field.index] = true
			}
		}
	}
	var best *division
	least := pairs - pairs/8
	for _, f := range first[0].tee.fields {
		if !named[f.index] || slices.Contains(done, f) {
			continue
		}
		if g.p.effort > g.p.most {
			g.tooMany = true
			return nil
		}
		c, left := g.divideBy(f, first, second, pairs)
		if c != nil && left < least {
			best, least = c, left
		}
	}
	return best
}

// divideBy divides by one claim, and counts the pairs that are left of so many.
func (g *pairing) divideBy(f *field, first, second []*workload, pairs int) (*division, int) {
	c := &division{field: f}
	bySet, byValue := map[*set]*portion{}, map[value]*portion{}
	entries := 0
	for list, ws := range [][]*workload{first, second} {
		for _, w := range ws {
			r := w.strict(f)
			var s *set
			if r != nil {
				s = r.test.values()
			}
			if s == nil {
				c.rest[list] = append(c.rest[list], w)
				continue
			}
			c.named[list] = append(c.named[list], w)
			part, ok := bySet[s]
			if !ok && len(s.entries) == 1 { // sets of one value are many, and often equal
				part, ok = byValue[s.entries[0].value]
			}
			if !ok {
				part = &portion{values: s}
				bySet[s] = part
				c.parts = append(c.parts, part)
				entries += len(s.entries)
				if len(s.entries) == 1 {
					byValue[s.entries[0].value] = part
				}
			}
			if list == 0 {
				part.first = append(part.first, w)
			} else {
				part.second = append(part.second, w)
			}
		}
	}
	all := len(first) + len(second)
	g.p.effort += all
	// What looking may cost: less than comparing the pairs would.
	bound := 64*all + 1024 + pairs/4
	if len(c.parts) < 2 || entries > bound {
		return nil, 0 // nothing is told apart
	}
	g.p.effort += entries + c.meet(bound)
	if c.meeting == nil {
		return nil, 0
	}
	return c, c.left(second == nil)
}

// meet finds the parts that have a value in common. It gives up where these are
// very many. It returns how many it looked at.
func (c *division) meet(bound int) (work int) {
	with := make([][]int, len(c.parts))
	lists := map[value][]int{}
	seen := map[[2]int]struct{}{}
	for i, part := range c.parts {
		for _, e := range part.values.entries {
			for _, j := range lists[e.value] {
				if work++; work > bound {
					return work
				}
				k := [2]int{j, i}
				if _, ok := seen[k]; !ok {
					seen[k] = struct{}{}
					with[j] = append(with[j], i)
				}
			}
			lists[e.value] = append(lists[e.value], i)
		}
	}
	c.meeting = with
	return work
}

// left counts the pairs that a division leaves.
func (c *division) left(one bool) int {
	n := 0
	for i, p := range c.parts {
		if one {
			n += len(p.first) * (len(p.first) - 1) / 2
			for _, j := range c.meeting[i] {
				n += len(p.first) * len(c.parts[j].first)
			}
			continue
		}
		n += len(p.first) * len(p.second)
		for _, j := range c.meeting[i] {
			n += len(p.first)*len(c.parts[j].second) + len(c.parts[j].first)*len(p.second)
		}
	}
	if one {
		return n + len(c.rest[0])*(len(c.rest[0])-1)/2 + len(c.rest[0])*len(c.named[0])
	}
	return n + len(c.rest[0])*(len(c.rest[1])+len(c.named[1])) + len(c.named[0])*len(c.rest[1])
}
