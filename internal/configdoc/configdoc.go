// Package configdoc writes the reference page of a configuration file from the
// Go struct that it is decoded into: names, types and defaults from the value,
// explanations from the comments in the source. A page made this way cannot
// drift from the program.
//
// The struct's fields carry `yaml:"name"` tags and doc comments. Nested structs
// become dotted keys. A comment that names its Go field first ("Listen is …")
// has the Go name replaced by the key.
//
//	//go:generate go run gen_config_doc.go
package configdoc

import (
	"bytes"
	"encoding"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"
)

// Key is one line of the reference.
type Key struct {
	Name    string // dotted: "limits.connections"
	Type    string // "text", "duration", "number", "true or false", "list of text"
	Default string // as it would be written in the file; "" for none
	Doc     string // one paragraph
}

// Markdown returns the table of every key of the configuration struct that
// defaults holds (or points to). dir is the directory of the Go package that
// declares it, in which the comments are read.
func Markdown(dir string, defaults any) ([]byte, error) {
	keys, err := Keys(dir, defaults)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
	for _, k := range keys {
		def := ""
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Name, k.Type, def, strings.ReplaceAll(k.Doc, "|", `\|`))
	}
	return b.Bytes(), nil
}

// Keys returns every key in the order of the struct. A field without a yaml
// tag or without a comment is an error: it could not be documented. So is a nil
// pointer to a struct, for its keys would be left out: give it its defaults.
func Keys(dir string, defaults any) ([]Key, error) {
	docs, err := comments(dir)
	if err != nil {
		return nil, err
	}
	v := reflect.ValueOf(defaults)
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil, fmt.Errorf("configdoc: nil %s", v.Type())
		}
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil, fmt.Errorf("configdoc: want a struct, got %s", v.Type())
	}
	return walk(nil, "", v, docs)
}

func walk(out []Key, prefix string, v reflect.Value, docs map[string]string) ([]Key, error) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if tag == "-" {
			continue
		}
		doc := docs[v.Type().Name()+"."+f.Name]
		switch {
		case tag == "":
			return nil, fmt.Errorf("configdoc: %s.%s has no yaml tag", v.Type().Name(), f.Name)
		case doc == "":
			return nil, fmt.Errorf("configdoc: %s.%s has no comment", v.Type().Name(), f.Name)
		}
		name := prefix + tag
		if rest, ok := strings.CutPrefix(doc, f.Name+" "); ok {
			doc = "`" + name + "` " + rest
		}
		fv := v.Field(i)
		for fv.Kind() == reflect.Pointer && !fv.IsNil() {
			fv = fv.Elem()
		}
		if fv.Kind() == reflect.Struct && !isScalar(fv.Type()) {
			var err error
			if out, err = walk(out, name+".", fv, docs); err != nil {
				return nil, err
			}
			continue
		}
		if t := typeName(f.Type); t == "mapping" {
			return nil, fmt.Errorf("configdoc: %s.%s is nil: its keys would be missing from the page", v.Type().Name(), f.Name)
		}
		out = append(out, Key{Name: name, Type: typeName(f.Type), Default: text(fv), Doc: doc})
	}
	return out, nil
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// isScalar reports whether the type is written as one value in a file.
func isScalar(t reflect.Type) bool {
	return t == reflect.TypeFor[time.Time]() || t.Implements(textUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler)
}

func typeName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t == reflect.TypeFor[time.Time]():
		return "time (RFC 3339)"
	case isScalar(t):
		return "text"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map to " + typeName(t.Elem())
	case reflect.Struct:
		return "mapping"
	default:
		return "number"
	}
}

// text writes a default as the file would have it.
func text(v reflect.Value) string {
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
		if v.IsNil() {
			return ""
		}
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return duration(x)
	case string:
		return x
	case fmt.Stringer:
		return x.String()
	}
	if v.Kind() == reflect.Slice && v.Len() == 0 {
		return ""
	}
	return fmt.Sprint(v.Interface())
}

// duration drops the zero parts that time.Duration prints: 1h, not 1h0m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// comments returns the doc comment of every struct field in the package at
// dir, by "Type.Field", as one line.
func comments(dir string) (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	fset := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			st, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range st.Fields.List {
				doc := field.Doc.Text()
				if doc == "" {
					doc = field.Comment.Text()
				}
				for _, id := range field.Names {
					out[spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(doc), " ")
				}
			}
			return true
		})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("configdoc: no struct in %s", dir)
	}
	return out, nil
}
