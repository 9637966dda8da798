package policy_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

const schemaFile = "../docs/reference/policy.schema.json"

func TestTheSchemaIsCurrent(t *testing.T) {
	golden(t, "../"+schemaFile, string(policy.Schema()))
}

// validator checks data against a JSON Schema of draft 2020-12: the keywords
// that ours uses, and an error for every other one.
type validator struct{ defs map[string]any }

func theSchema(t testing.TB) (validator, map[string]any) {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(policy.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	defs, ok := root["$defs"].(map[string]any)
	if !ok {
		t.Fatal("the schema has no $defs")
	}
	return validator{defs}, root
}

// check returns what is wrong with data, or nil.
func (v validator) check(schema, data any, at string) []string {
	var out []string
	fail := func(format string, a ...any) { out = append(out, at+": "+fmt.Sprintf(format, a...)) }
	s, ok := schema.(map[string]any)
	if !ok {
		if schema == false {
			fail("nothing is allowed here")
		}
		return out
	}
	object, isObject := data.(map[string]any)
	array, isArray := data.([]any)
	text, isText := data.(string)
	number, isNumber := data.(float64)
	for _, keyword := range slices.Sorted(maps.Keys(s)) {
		arg := s[keyword]
		switch keyword {
		case "$schema", "$id", "$defs", "title", "description", "then", "format":
		case "$ref":
			name := strings.TrimPrefix(arg.(string), "#/$defs/")
			def, ok := v.defs[name]
			if !ok {
				fail("the schema refers to %s, which is not defined", name)
			}
			out = append(out, v.check(def, data, at)...)
		case "type":
			if !slices.ContainsFunc(list(arg), func(t any) bool { return hasType(data, t.(string)) }) {
				fail("%v is not of type %v", data, arg)
			}
		case "const":
			if !reflect.DeepEqual(arg, data) {
				fail("%v is not %v", data, arg)
			}
		case "enum":
			if !slices.ContainsFunc(list(arg), func(x any) bool { return reflect.DeepEqual(x, data) }) {
				fail("%v is none of %v", data, arg)
			}
		case "anyOf":
			var why []string
			matched := false
			for _, one := range list(arg) {
				bad := v.check(one, data, at)
				matched = matched || len(bad) == 0
				why = append(why, bad...)
			}
			if !matched {
				fail("no alternative fits: %s", strings.Join(why, "; "))
			}
		case "allOf":
			for _, one := range list(arg) {
				out = append(out, v.check(one, data, at)...)
			}
		case "if":
			if len(v.check(arg, data, at)) == 0 {
				out = append(out, v.check(s["then"], data, at)...)
			}
		case "properties":
			for name, sub := range arg.(map[string]any) {
				if value, ok := object[name]; ok {
					out = append(out, v.check(sub, value, at+"."+name)...)
				}
			}
		case "additionalProperties":
			known, _ := s["properties"].(map[string]any)
			for name, value := range object {
				if _, ok := known[name]; ok {
					continue
				}
				if arg == false {
					fail("unknown key %s", name)
				} else {
					out = append(out, v.check(arg, value, at+"."+name)...)
				}
			}
		case "propertyNames":
			for name := range object {
				out = append(out, v.check(arg, name, at+" (key)")...)
			}
		case "required":
			for _, name := range list(arg) {
				if _, ok := object[name.(string)]; isObject && !ok {
					fail("%s is missing", name)
				}
			}
		case "items":
			for i, item := range array {
				out = append(out, v.check(arg, item, at+"["+strconv.Itoa(i)+"]")...)
			}
		case "uniqueItems":
			for i := range array {
				if slices.ContainsFunc(array[:i], func(x any) bool { return reflect.DeepEqual(x, array[i]) }) {
					fail("%v twice", array[i])
				}
			}
		case "minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength", "minimum", "maximum":
			var got float64
			switch {
			case strings.HasSuffix(keyword, "Items") && isArray:
				got = float64(len(array))
			case strings.HasSuffix(keyword, "Properties") && isObject:
				got = float64(len(object))
			case strings.HasSuffix(keyword, "Length") && isText:
				got = float64(utf8.RuneCountInString(text))
			case strings.HasSuffix(keyword, "imum") && isNumber:
				got = number
			default:
				continue
			}
			if limit := arg.(float64); strings.HasPrefix(keyword, "min") && got < limit || strings.HasPrefix(keyword, "max") && got > limit {
				fail("%v: %s is %v", data, keyword, arg)
			}
		case "pattern":
			if isText && !regexp.MustCompile(arg.(string)).MatchString(text) {
				fail("%q does not match %s", text, arg)
			}
		default:
			fail("the schema has the keyword %s, which the test does not know", keyword)
		}
	}
	return out
}

func list(x any) []any {
	if l, ok := x.([]any); ok {
		return l
	}
	return []any{x}
}

func hasType(data any, t string) bool {
	switch x := data.(type) {
	case map[string]any:
		return t == "object"
	case []any:
		return t == "array"
	case string:
		return t == "string"
	case bool:
		return t == "boolean"
	case float64:
		return t == "number" || t == "integer" && x == float64(int64(x))
	}
	return false
}

// asJSON reads a policy as editors do.
func asJSON(t testing.TB, src string) any {
	t.Helper()
	n, err := strictyaml.Parse("p.yaml", []byte(src))
	if err != nil {
		t.Fatal(render(err))
	}
	var convert func(n *strictyaml.Node) any
	convert = func(n *strictyaml.Node) any {
		switch n.Kind {
		case strictyaml.Mapping:
			out := map[string]any{}
			for _, f := range n.Fields {
				out[f.Key.Value] = convert(f.Value)
			}
			return out
		case strictyaml.Sequence:
			out := []any{}
			for _, x := range n.Items {
				out = append(out, convert(x))
			}
			return out
		case strictyaml.Scalar:
		}
		if n.Quoted || n.Type == strictyaml.Text {
			return n.Value
		}
		var x any
		if err := json.Unmarshal([]byte(n.Value), &x); err != nil {
			return n.Value
		}
		return x
	}
	return convert(n)
}

// everyExample is each policy that the documents show, and those of the tests.
func everyExample(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{"base": expand(base), "snpBase": expand(snpBase), "tpmBase": expand(tpmBase), "three": expand(three)}
	for _, name := range []string{"testdata/good.yaml", "testdata/snp.yaml", "testdata/whole.yaml"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(src)
	}
	var files []string
	err := filepath.WalkDir("../docs", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range yamlBlock.FindAllStringSubmatch(string(src), -1) {
			if strings.HasPrefix(m[1], "version: 1\nbundle:") {
				out[fmt.Sprintf("%s, example %d", name, i+1)] = m[1]
			}
		}
	}
	return out
}

func TestEveryExampleFitsTheSchema(t *testing.T) {
	v, root := theSchema(t)
	for name, src := range everyExample(t) {
		if bad := v.check(root, asJSON(t, src), "$"); len(bad) > 0 {
			t.Errorf("%s:\n%s", name, strings.Join(bad, "\n"))
		}
	}
}

// The whole language in one file, and what each case makes of it is refused by
// the schema as it is by the parser.
func TestTheSchemaRefusesWhatTheParserRefuses(t *testing.T) {
	v, root := theSchema(t)
	src, err := os.ReadFile("testdata/whole.yaml")
	if err != nil {
		t.Fatal(err)
	}
	whole := string(src)
	if _, err := policy.Parse("whole.yaml", src); err != nil {
		t.Fatal(render(err))
	}
	for _, c := range []struct{ name, from, to string }{
		{"unknown key", "bundle: whole", "bundle: whole\nbundel: x"},
		{"missing revision", "revision: 3\n", ""},
		{"another version", "version: 1", "version: 2"},
		{"unknown TEE", "tee: aws-nitro", "tee: aws-nitor"},
		{"unknown mode", "mode: audit", "mode: audited"},
		{"a share of more digits", "rollout: 10%", "rollout: 10.125%"},
		{"unknown claim", "pcr8:", "pcr99:"},
		{"claim of another TEE", "pcr8:", "measurement:"},
		{"unknown matcher", "pcr8: {eq:", "pcr8: {equals:"},
		{"two matchers", "guest_svn: {gte: 3}", "guest_svn: {gte: 3, lte: 9}"},
		{"digest of another length", `pcr3: {eq: "c07e`, `pcr3: {eq: "c0`},
		{"number out of range", "vmpl: {eq: 1}", "vmpl: {eq: 4}"},
		{"TCB without a component", "snp: 23, ", ""},
		{"fmc of a line without", "genoa: {bl", "genoa: {fmc: 1, bl"},
		{"bit out of range", "set: [0, 3]", "set: [0, 64]"},
		{"unknown word", "revocation: {eq: ok}", "revocation: {eq: good}"},
		{"version of two parts", `"1.55.29"`, `"1.55"`},
		{"no moment", "not_after: 2027-01-31T00:00:00Z", "not_after: [2027]"},
		{"waiver without owner", ", owner: \"ana@example.org\", expires: 2027-03-01", ", expires: 2027-03-01"},
		{"waiver with another key", "reason: \"", "excuse: \""},
		{"unknown code", "silence: [evidence-oracle]", "silence: [evidence-oracel]"},
		{"selector of text", "uid: 1000", "uid: api"},
		{"selector of another kind", "uid: 1000", "user: 1000"},
		{"relative path", "path: /usr", "path: usr"},
		{"no audience", "audiences: [sts.amazonaws.com]", "audiences: []"},
		{"unquoted number", `attributes: {tier: gold}`, `attributes: {tier: 1}`},
		{"TTL without unit", "x509_ttl: 1h", "x509_ttl: 3600"},
		{"publish of a private claim", "publish: [pcr0]", "publish: [pcr3]"},
	} {
		bad := change(t, whole, c.from, c.to)
		if _, err := policy.Parse("whole.yaml", []byte(bad)); err == nil {
			t.Errorf("%s: the parser accepts it", c.name)
		}
		if len(v.check(root, asJSON(t, bad), "$")) == 0 {
			t.Errorf("%s: the schema accepts it", c.name)
		}
	}
}

// Whatever the parser takes, the schema takes: the positive cases of the other
// tests.
func TestTheSchemaTakesWhatTheParserTakes(t *testing.T) {
	v, root := theSchema(t)
	for name, pair := range limits {
		src := expand(change(t, base, pair[0], pair[1]))
		if bad := v.check(root, asJSON(t, src), "$"); len(bad) > 0 {
			t.Errorf("%s:\n%s", name, strings.Join(bad, "\n"))
		}
	}
}

func TestEveryClaimIsDescribedForEditors(t *testing.T) {
	for platform, claims := range policy.DescribedForTest() {
		for claim, about := range claims {
			if about == "" {
				t.Errorf("%s: %s has no description, or it is none of the platform's claims", platform, claim)
			}
		}
	}
}
