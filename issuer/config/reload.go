package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// reloadable are the keys that a running server takes over from the file when it
// is asked to (SIGHUP). Everything else needs a restart; a test sees to it that a
// new key is put on one of the two lists.
var reloadable = []string{
	"tenants", "log.level", "reattest_spread", "quotas",
	"limits.handshakes", "limits.handshakes_per_address", "limits.connections", "limits.strangers_per_address",
	"limits.unverified", "limits.unverified_per_address", "limits.event_log_mib", "limits.in_flight",
	"limits.attestations_per_instance", "limits.attestations_per_second", "limits.tokens_per_instance", "limits.admin_calls",
	"administration.trust_domain", "administration.bundle", "administration.roles",
}

// fixed are those that need one: what they say is open, made or remembered.
var fixed = []string{
	"trust_domain", "data_dir", "policy", "policy_signers", "listen", "admin_socket", "server", "database", "keys", "authorities",
	"jwt", "web", "federation", "administration.listen", "metrics_listen", "log.format", "nitro", "sevsnp", "tpm", "retain_evidence", "checkpoint_sink",
	"shutdown_timeout", "reflection", "tracing", "limits.handshake_timeout", "limits.streams_per_connection",
}

// Effective is the running configuration with what can be taken over from the
// next one, and the keys of which the next one's values need a restart.
func Effective(running, next *Config) (effective *Config, restart []string) {
	out := *running
	if running.Administration.Listen != next.Administration.Listen {
		// Turned on, off or moved: who may come there belongs to it.
		copied := *next
		restart = different(reflect.ValueOf(running.Administration), reflect.ValueOf(next.Administration), "administration")
		copied.Administration = running.Administration
		next = &copied
	}
	merge(reflect.ValueOf(&out).Elem(), reflect.ValueOf(*next), "", &restart)
	slices.Sort(restart)
	return &out, restart
}

func merge(to, from reflect.Value, prefix string, restart *[]string) {
	for i := range to.NumField() {
		key := prefix + to.Type().Field(i).Tag.Get("yaml")
		switch a, b := to.Field(i), from.Field(i); {
		case a.Kind() == reflect.Struct && !listed(fixed, key):
			merge(a, b, key+".", restart)
		case reflect.DeepEqual(a.Interface(), b.Interface()):
		case listed(reloadable, key):
			a.Set(b)
		default:
			*restart = append(*restart, different(a, b, key)...)
		}
	}
}

// different names the keys in which two values differ.
func different(a, b reflect.Value, key string) []string {
	if a.Kind() != reflect.Struct {
		return []string{key}
	}
	var out []string
	for i := range a.NumField() {
		if x, y := a.Field(i), b.Field(i); !reflect.DeepEqual(x.Interface(), y.Interface()) {
			out = append(out, different(x, y, key+"."+a.Type().Field(i).Tag.Get("yaml"))...)
		}
	}
	return out
}

// listed reports whether a list has the key, or what it is a part of.
func listed(list []string, key string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return key == l || strings.HasPrefix(key, l+".") })
}

// unlisted are the keys of the configuration that are not on exactly one list.
func unlisted(t reflect.Type, prefix string) (out []string) {
	for i := range t.NumField() {
		key := prefix + t.Field(i).Tag.Get("yaml")
		switch safe, not := listed(reloadable, key), listed(fixed, key); {
		case safe && not:
			out = append(out, fmt.Sprintf("%s is on both lists", key))
		case safe || not:
		case t.Field(i).Type.Kind() == reflect.Struct:
			out = append(out, unlisted(t.Field(i).Type, key+".")...)
		default:
			out = append(out, fmt.Sprintf("%s is on neither list", key))
		}
	}
	return out
}
