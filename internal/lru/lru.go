// Package lru is a bounded memory that forgets what was not used for longest.
// The verifiers keep verified chains in it, and collateral its certificates:
// both must stay bounded whatever strangers send.
package lru

import (
	"container/list"
	"sync"
)

// Cache holds values by key, up to a limit on their total weight. It is safe for
// concurrent use. One with a limit of 0 remembers nothing.
type Cache[K comparable, V any] struct {
	limit  int64
	weight func(V) int64

	mu        sync.Mutex
	total     int64
	evictions uint64
	byKey     map[K]*list.Element // of entry
	order     *list.List          // most recently used first
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// New makes a cache of at most limit values.
func New[K comparable, V any](limit int) *Cache[K, V] {
	return NewWeighted[K](int64(limit), func(V) int64 { return 1 })
}

// NewWeighted makes a cache of values whose weights add up to at most limit.
func NewWeighted[K comparable, V any](limit int64, weight func(V) int64) *Cache[K, V] {
	return &Cache[K, V]{limit: limit, weight: weight, byKey: make(map[K]*list.Element), order: list.New()}
}

// Get returns the value of a key, and makes it the most recently used.
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[k]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(entry[K, V]).value, true // the list holds entries only
}

// Put sets the value of a key, and forgets others until the limit holds. A
// value that is heavier than the limit is not remembered at all.
func (c *Cache[K, V]) Put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(k)
	if c.weight(v) > c.limit {
		return
	}
	c.total += c.weight(v)
	c.byKey[k] = c.order.PushFront(entry[K, V]{k, v})
	for c.total > c.limit {
		c.drop(c.order.Back().Value.(entry[K, V]).key) // the list holds entries only
		c.evictions++
	}
}

// Remove forgets a key.
func (c *Cache[K, V]) Remove(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(k)
}

// Clear forgets everything.
func (c *Cache[K, V]) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total = 0
	clear(c.byKey)
	c.order.Init()
}

func (c *Cache[K, V]) drop(k K) {
	e, ok := c.byKey[k]
	if !ok {
		return
	}
	c.total -= c.weight(e.Value.(entry[K, V]).value) // the list holds entries only
	c.order.Remove(e)
	delete(c.byKey, k)
}

// Len is how many values there are.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

// Weight is what they weigh together.
func (c *Cache[K, V]) Weight() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// Limit is what New or NewWeighted was given.
func (c *Cache[K, V]) Limit() int64 { return c.limit }

// Evictions counts the values that were forgotten for want of room.
func (c *Cache[K, V]) Evictions() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.evictions
}
