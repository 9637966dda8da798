package lru

import (
	"sync"
	"testing"
)

func TestTheLeastRecentlyUsedGoesFirst(t *testing.T) {
	c := New[string, int](2)
	c.Put("a", 1)
	c.Put("b", 2)
	if _, ok := c.Get("a"); !ok {
		t.Fatal("a is gone too early")
	}
	c.Put("c", 3)
	if _, ok := c.Get("b"); ok {
		t.Error("b was used least recently and is still there")
	}
	if v, ok := c.Get("a"); !ok || v != 1 {
		t.Errorf("a: %d, %v", v, ok)
	}
	if c.Len() != 2 || c.Evictions() != 1 {
		t.Errorf("%d values, %d evictions", c.Len(), c.Evictions())
	}
}

func TestTheWeightNeverPassesTheLimit(t *testing.T) {
	c := NewWeighted[int](100, func(v []byte) int64 { return int64(len(v)) })
	for i := range 50 {
		c.Put(i%7, make([]byte, i))
		if c.Weight() > 100 {
			t.Fatalf("weight %d after %d", c.Weight(), i)
		}
	}
	before := c.Len()
	c.Put(99, make([]byte, 101))
	if _, ok := c.Get(99); ok || c.Len() != before {
		t.Error("a value beyond the limit was taken, or pushed others out")
	}
	for i := range 7 {
		c.Remove(i)
	}
	if c.Len() != 0 || c.Weight() != 0 {
		t.Errorf("%d values of weight %d are left", c.Len(), c.Weight())
	}
}

func TestALimitOfZeroRemembersNothing(t *testing.T) {
	c := New[int, int](0)
	c.Put(1, 1)
	if _, ok := c.Get(1); ok || c.Len() != 0 {
		t.Error("it remembers")
	}
}

func TestTheSameKeyTakesItsNewestValue(t *testing.T) {
	c := New[int, string](3)
	c.Put(1, "old")
	c.Put(1, "new")
	if v, _ := c.Get(1); v != "new" || c.Len() != 1 || c.Evictions() != 0 {
		t.Errorf("%q, %d values", v, c.Len())
	}
}

func TestAClearedCacheIsEmptyAndTakesMore(t *testing.T) {
	c := New[string, int](2)
	c.Put("a", 1)
	c.Put("b", 2)
	c.Clear()
	if _, ok := c.Get("a"); ok || c.Len() != 0 || c.Weight() != 0 {
		t.Errorf("%d values of weight %d are left", c.Len(), c.Weight())
	}
	c.Put("c", 3)
	if v, ok := c.Get("c"); !ok || v != 3 || c.Len() != 1 {
		t.Errorf("after it: %d, %t, %d values", v, ok, c.Len())
	}
}

func TestManyMayUseItAtOnce(t *testing.T) {
	c := New[int, int](10)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				c.Put(j%20, i)
				c.Get(j % 20)
				if j%50 == 0 {
					c.Remove(j % 20)
				}
			}
		})
	}
	wg.Wait()
	if c.Len() > 10 {
		t.Errorf("%d values", c.Len())
	}
}
