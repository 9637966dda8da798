package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

//go:generate go test -run ^TestTheSchemaIsCurrent$ -update .

// schema is a JSON Schema, draft 2020-12.
type schema map[string]any

// SchemaID names the schema of this version of the language.
const SchemaID = "https://raw.githubusercontent.com/assay-project/assay/main/docs/reference/policy.schema.json"

// Schema is the language as a JSON Schema, for editors: what they can complete
// and underline. It is made of the tables that the parser reads with, and is
// looser than the parser: a file that the schema refuses is refused, and one
// that it accepts can still have mistakes.
func Schema() []byte {
	defs := definitions{
		"name":     {"type": "string", "pattern": namePattern.String()},
		"prose":    {"type": "string", "minLength": 1, "maxLength": maxNote},
		"moment":   {"type": "string", "format": "date-time", "description": "RFC 3339 with offset, such as 2027-01-31T00:00:00Z."},
		"date":     {"anyOf": []schema{{"type": "string", "format": "date"}, ref("moment")}, "description": "A day, which ends at its beginning in UTC, or a moment."},
		"duration": {"type": "string", "pattern": `^([0-9]+d|\+?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`, "description": "A length of time, such as 90s, 15m, 1h30m or 1d."},
		"mode":     modeSchema(),
		"silence":  {"type": "array", "uniqueItems": true, "items": schema{"anyOf": codeSchemas()}},
		"reference": {"anyOf": []schema{
			list(ref("anyEntry"), 1, 0), mapping("Values, and what is true of all of them.", referenceKeys),
		}},
		"anyEntry":  {"anyOf": []schema{{"type": []string{"string", "integer", "boolean"}}, ref("entry")}},
		"entry":     mapping("One value of a set.", entryKeys),
		"ownership": mapping("Why the workload has no ownership predicate.", ownershipKeys),
		"waiver":    mapping("A rule that need not hold for a while.", waiverKeys),
		"identity":  mapping("One identity of a workload.", identityKeys),
		"jwt":       mapping("JWT-SVIDs of an identity.", jwtKeys),
		"selectors": mapping("Which processes get an identity.", selectorKeys),
		"unix":      mapping("What a process must show, all of it.", unixKeys),
		"systemd":   mapping("What the service manager must say of it.", systemdKeys),
		"docker":    mapping("What the container engine must say of it.", dockerKeys),
		"k8s":       mapping("What the kubelet must say of it.", kubernetesKeys),
	}
	defs["unix"]["minProperties"] = 1
	ofWorkload := slices.Clone(workloadKeys)
	for i := range ofWorkload {
		if ofWorkload[i].name == "tee" {
			ofWorkload[i].value = schema{"enum": platforms()}
		}
	}
	workload := mapping("Who gets which identities.", ofWorkload)
	var perTEE []schema
	for _, t := range tees {
		perTEE = append(perTEE, schema{
			"if":   schema{"properties": schema{"tee": schema{"const": t.platform}}, "required": []string{"tee"}},
			"then": schema{"properties": t.schema(defs)},
		})
	}
	workload["allOf"] = perTEE
	defs["workload"] = workload
	root := mapping("A measurement policy: which attested environment earns which SPIFFE identities.", bundleKeys)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = SchemaID
	root["title"] = "Assay measurement policy"
	root["$defs"] = defs
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil // maps, lists, texts and numbers can always be written
	}
	return append(out, '\n')
}

// definitions are the schemas that others refer to.
type definitions map[string]schema

// schema is what a platform adds to the keys of a workload.
func (t *tee) schema(defs definitions) schema {
	claims := schema{}
	var published []string
	for _, f := range t.fields {
		s := schema{"$ref": defs.matchers(f)}
		if about := t.about(f.name); about != "" {
			s["description"] = about
		}
		claims[f.name] = s
		if t.mayPublish(f) {
			published = append(published, f.name)
		}
	}
	name := "claims-" + string(t.platform)
	defs[name] = schema{
		"type": "object", "description": "Claims of " + string(t.platform) + ": " + t.claims + ".",
		"properties": claims, "additionalProperties": false,
	}
	return schema{
		"match":   ref(name),
		"publish": schema{"items": schema{"enum": published}},
		"waivers": schema{"items": schema{"properties": schema{"when": ref(name)}}},
	}
}

var notName = regexp.MustCompile(`[^A-Za-z0-9]+`)

// matchers defines the matchers of a claim's kind, once, and refers to them.
func (d definitions) matchers(f *field) string {
	name := "kind-" + strings.Trim(notName.ReplaceAllString(strings.ToLower(fmt.Sprintf("%T %v", f.kind, f.kind)), "-"), "-")
	name = strings.Replace(name, "kind-policy-", "matchers-", 1)
	if _, ok := d[name]; !ok {
		ops := schema{}
		for _, op := range f.kind.ops() {
			ops[op] = f.kind.schema(op)
		}
		d[name] = schema{
			"type": "object", "properties": ops, "additionalProperties": false,
			"minProperties": 1, "maxProperties": 1,
		}
	}
	return "#/$defs/" + name
}

// about describes a claim in a line, for editors.
func (t *tee) about(claim string) string { return t.describe[claim] }

// sets is the schema of eq and in over values of a schema.
func sets(op string, value schema) schema {
	if op == "eq" {
		return value
	}
	withValue := slices.Clone(entryKeys)
	withValue[0].value = value
	return schema{"anyOf": []schema{
		ref("name"),
		list(schema{"anyOf": []schema{value, mapping("", withValue)}}, 1, 0),
	}}
}

// ref refers to a definition.
func ref(name string) schema { return schema{"$ref": "#/$defs/" + name} }

// list is the schema of a list; no most is 0.
func list(items schema, least, most int) schema {
	out := schema{"type": "array", "items": items}
	if least > 0 {
		out["minItems"] = least
	}
	if most > 0 {
		out["maxItems"] = most
	}
	return out
}

// mapping is the schema of a mapping with these keys and no others.
func mapping(about string, ks keys) schema {
	properties := schema{}
	required := []string{}
	for _, k := range ks {
		v := schema{"description": k.about}
		for name, x := range k.value {
			v[name] = x
		}
		properties[k.name] = v
		if k.required {
			required = append(required, k.name)
		}
	}
	out := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if about != "" {
		out["description"] = about
	}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

// inHex is the schema of one of these numbers of bytes in hex.
func inHex(lengths ...int) schema {
	var alternatives []string
	for _, n := range lengths {
		alternatives = append(alternatives, fmt.Sprintf("[0-9A-Fa-f]{%d}", 2*n))
	}
	return schema{"type": "string", "pattern": "^(" + strings.Join(alternatives, "|") + ")$"}
}

func platforms() []string {
	var out []string
	for _, t := range tees {
		out = append(out, string(t.platform))
	}
	return out
}

func codeSchemas() []schema {
	var out []schema
	for _, c := range Codes() {
		out = append(out, schema{"const": c.Code, "description": c.Summary})
	}
	return out
}

func modeSchema() schema {
	return schema{"anyOf": []schema{
		{"const": Enforce, "description": "Grants."},
		{"const": Audit, "description": "Is evaluated and recorded, and never grants."},
		mapping("Grants to a share of the hardware.", keys{{
			Rollout, true, "The share, with at most two digits after the point.",
			schema{"type": "string", "pattern": `^[0-9]{1,3}(\.[0-9]{1,2})?%$`},
		}}),
	}}
}

// The schemas of the kinds.

func (k digest) schema(op string) schema     { return sets(op, inHex(k.n)) }
func (k identifier) schema(op string) schema { return sets(op, inHex(k.n)) }
func (chipID) schema(op string) schema       { return sets(op, inHex(turinLength, chipLength)) }
func (boolean) schema(op string) schema      { return sets(op, schema{"type": "boolean"}) }
func (masking) schema(op string) schema      { return boolean{}.schema(op) }

func (k enum) schema(op string) schema {
	return sets(op, schema{"enum": strings.Split(k.words, "|")})
}

func (k text) schema(op string) schema {
	if op == "regex" {
		return schema{"type": "string", "format": "regex", "minLength": 1, "maxLength": maxPattern}
	}
	return sets(op, schema{"type": "string", "minLength": 1, "maxLength": k.max, "pattern": "^[ -~]*$"})
}

func (k number) schema(op string) schema {
	n := schema{"type": "integer", "minimum": k.least, "maximum": k.most}
	if op == "gte" || op == "lte" {
		return n
	}
	return sets(op, n)
}

func version(parts int) schema {
	return schema{"type": "string", "pattern": fmt.Sprintf(`^[0-9]+(\.[0-9]+){%d}$`, parts-1)}
}

func (firmware) schema(op string) schema {
	if op == "gte" || op == "lte" {
		return version(3)
	}
	return sets(op, version(3))
}

func (tpmFirmware) schema(op string) schema {
	if op == "gte" || op == "lte" {
		return version(4)
	}
	return sets(op, version(4))
}

func (register) schema(op string) schema {
	var lengths []int
	for _, b := range banks {
		lengths = append(lengths, b.n)
	}
	return sets(op, inHex(lengths...))
}

func (registerList) schema(string) schema { return register{}.schema("in") }

func (bitfield) schema(string) schema {
	bits := schema{"type": "array", "uniqueItems": true, "items": schema{"type": "integer", "minimum": 0, "maximum": 63}}
	return schema{"type": "object", "properties": schema{"set": bits, "clear": bits}, "additionalProperties": false, "minProperties": 1}
}

func (tcb) schema(string) schema {
	products := schema{}
	for _, product := range snpProducts {
		components, names := schema{}, slices.Clone(tcbNames)
		if product != snpHasFMC {
			names = names[1:]
		}
		for _, c := range names {
			components[c] = schema{"type": "integer", "minimum": 0, "maximum": 255}
		}
		products[product] = schema{"type": "object", "properties": components, "additionalProperties": false, "required": names}
	}
	return schema{"type": "object", "properties": products, "additionalProperties": false, "minProperties": 1}
}
