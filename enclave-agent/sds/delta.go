package sds

import (
	"maps"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// wildcard asks for all that there is (xDS, "how the client specifies what resources to
// return").
const wildcard = "*"

// changes is one stream of the incremental kind (xDS, "incremental"): an answer holds
// what Envoy does not have yet, and the names of what it has and may not have any more.
// As in a conversation, one answer is under way at most.
type changes struct {
	peer
	send  func(*discovery.DeltaDiscoveryResponse) error
	asked bool
	all   bool // wildcard
	names map[string]bool
	has   map[string]string // what Envoy holds: versions by name
	fresh bool              // something was subscribed to and has not been answered
}

func (c *changes) begun() bool { return c.asked }

// hear takes a request: the first one, a change of subscriptions, or a word on an
// answer. Subscriptions count in each of them.
func (c *changes) hear(r *discovery.DeltaDiscoveryRequest) error {
	for _, names := range [][]string{r.GetResourceNamesSubscribe(), r.GetResourceNamesUnsubscribe(), slices.Collect(maps.Keys(r.GetInitialResourceVersions()))} {
		if err := check(r.GetTypeUrl(), names); err != nil {
			return err
		}
	}
	if c.word(r.GetNode(), r.GetResponseNonce(), r.GetErrorDetail()) && r.GetResponseNonce() != "" {
		c.owed = false
	}
	if !c.asked { // a stream that follows one that broke says what it brings along
		c.asked, c.fresh, c.names = true, true, map[string]bool{}
		c.has = maps.Clone(r.GetInitialResourceVersions())
		if c.has == nil {
			c.has = map[string]string{}
		}
		c.all = len(r.GetResourceNamesSubscribe()) == 0
	}
	for _, n := range r.GetResourceNamesSubscribe() {
		if n == wildcard {
			c.all = true
			continue
		}
		if c.names[n] { // again: it wants to hear of it again
			delete(c.has, n)
		}
		c.names[n], c.fresh = true, true
	}
	for _, n := range r.GetResourceNamesUnsubscribe() {
		if n == wildcard {
			c.all = false
			continue
		}
		delete(c.names, n)
		delete(c.has, n)
	}
	if len(c.names) > maxNames {
		return status.Errorf(codes.InvalidArgument, "%d names, at most %d", len(c.names), maxNames)
	}
	return nil
}

// tell answers if Envoy lacks something, or has what it may not have any more. What was
// refused is not sent again.
func (c *changes) tell(now *Secrets) error {
	if c.owed && !c.fresh {
		return nil
	}
	held, err := c.wanted(now)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	out := &discovery.DeltaDiscoveryResponse{TypeUrl: TypeURL}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		v := version([]*anypb.Any{held[name]})
		if c.has[name] != v {
			out.Resources = append(out.Resources, &discovery.Resource{Name: name, Version: v, Resource: held[name]})
			c.has[name] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.has)) {
		if held[name] == nil {
			out.RemovedResources = append(out.RemovedResources, name)
			delete(c.has, name)
		}
	}
	c.fresh = false
	if len(out.GetResources())+len(out.GetRemovedResources()) == 0 {
		return nil
	}
	out.Nonce = c.answered()
	return c.send(out)
}

// wanted is what Envoy asks for and may have, by name.
func (c *changes) wanted(now *Secrets) (map[string]*anypb.Any, error) {
	out := map[string]*anypb.Any{}
	add := func(names []string) error {
		list, err := now.secrets(names)
		if err != nil {
			return err
		}
		for _, x := range list {
			if out[x.GetName()], err = pack(x); err != nil {
				return err
			}
		}
		return nil
	}
	if c.all {
		if err := add(nil); err != nil {
			return nil, err
		}
	}
	if len(c.names) == 0 {
		return out, nil
	}
	return out, add(slices.Sorted(maps.Keys(c.names)))
}
