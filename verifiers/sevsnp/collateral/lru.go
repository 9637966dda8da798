package collateral

import (
	"container/list"
	"sync"
)

// lru keeps values up to a total weight and forgets what was not used for
// longest.
type lru[K comparable, V any] struct {
	limit  int64
	weight func(V) int64

	mu    sync.Mutex
	total int64
	byKey map[K]*list.Element // of pair
	order *list.List          // most recently used first
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int64, weight func(V) int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, weight: weight, byKey: make(map[K]*list.Element), order: list.New()}
}

func (c *lru[K, V]) get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[k]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(pair[K, V]).value, true // the list holds pairs only
}

func (c *lru[K, V]) put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(k)
	c.total += c.weight(v)
	c.byKey[k] = c.order.PushFront(pair[K, V]{k, v})
	for c.total > c.limit && c.order.Len() > 0 {
		c.drop(c.order.Back().Value.(pair[K, V]).key) // the list holds pairs only
	}
}

func (c *lru[K, V]) remove(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(k)
}

func (c *lru[K, V]) drop(k K) {
	e, ok := c.byKey[k]
	if !ok {
		return
	}
	c.total -= c.weight(e.Value.(pair[K, V]).value) // the list holds pairs only
	c.order.Remove(e)
	delete(c.byKey, k)
}

func (c *lru[K, V]) size() (n int, weight int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len(), c.total
}
