package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// jsonNames are the names of a struct's fields in JSON, and of the structs in it.
func jsonNames(t reflect.Type) (out []string) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return jsonNames(t.Elem())
	case reflect.Struct:
	default:
		return nil
	}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "" {
			out = append(append(out, name), jsonNames(t.Field(i).Type)...)
		}
	}
	return out
}

// Scripts read the commands' JSON: the guide has every field of it, and no other.
func TestTheGuideHasEveryFieldOfTheCommandsJSON(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/guides/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	for command, of := range map[string]any{"fetch": shown{}, "fetch jwt": fetchedToken{}, "healthcheck": health{}, "status": standing{}} {
		m := regexp.MustCompile("(?m)^\\| `" + command + "` \\| (.*) \\|$").FindSubmatch(page)
		if m == nil {
			t.Errorf("%s is not in the table of fields", command)
			continue
		}
		var said []string
		for _, w := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(string(m[1]), -1) {
			said = append(said, w[1])
		}
		fields := jsonNames(reflect.TypeOf(of))
		for _, f := range fields {
			if !slices.Contains(said, f) {
				t.Errorf("%s: the field %s is not in the guide", command, f)
			}
		}
		// Words that are no field are the values of one.
		values := []string{"svids", "software", "tpm", "good", "bad", "unknown", "serving", "attesting", "no_identity", "clock"}
		for _, w := range said {
			if !slices.Contains(fields, w) && !slices.Contains(values, w) {
				t.Errorf("%s: there is no field %s", command, w)
			}
		}
	}
}
