package strictyaml

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Decode reads src into v, a pointer to a struct whose fields carry `yaml:"name"`
// tags. Keys that the file does not have keep the value already in v; a list
// or map in the file replaces the one in v. Supported are string, bool, the
// integers, float64, time.Duration, time.Time, slices, map[string]T, structs,
// pointers to these, and types with UnmarshalText.
//
// The error is an [Errors] with every problem in the file. A type that cannot
// be decoded into is another error, from [Check]: a mistake in the program.
func Decode(file string, src []byte, v any) error {
	d := Open(file, src)
	if err := d.Decode(v); err != nil {
		return err
	}
	return d.Err()
}

// Decode reads the document into v, see the function [Decode]. Problems with the
// file are added to the document; the error is only ever about the type of v.
// With problems in the document, v holds what could be read.
func (d *Document) Decode(v any) error {
	if err := Check(v); err != nil {
		return err
	}
	if d.root != nil {
		d.into(d.root, reflect.ValueOf(v).Elem())
	}
	return nil
}

var (
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
)

// Check reports a type that [Decode] cannot fill: one line in a test finds the
// field that lacks its tag.
func Check(v any) error {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct || reflect.ValueOf(v).IsNil() {
		return fmt.Errorf("strictyaml: want a pointer to a struct, got %T", v)
	}
	return errors.Join(checkType(t.Elem(), t.Elem().Name(), map[reflect.Type]bool{})...)
}

func checkType(t reflect.Type, path string, seen map[reflect.Type]bool) []error {
	if seen[t] || t == timeType || t == durationType || reflect.PointerTo(t).Implements(textType) {
		return nil
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return nil
	case reflect.Pointer:
		return checkType(t.Elem(), path, seen)
	case reflect.Slice:
		return checkType(t.Elem(), path+"[]", seen)
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return []error{fmt.Errorf("strictyaml: %s: map keys must be strings", path)}
		}
		return checkType(t.Elem(), path+"{}", seen)
	case reflect.Struct:
		var errs []error
		for i := range t.NumField() {
			f := t.Field(i)
			name, ok := f.Tag.Lookup("yaml")
			switch {
			case name == "-":
			case !f.IsExported() && ok:
				errs = append(errs, fmt.Errorf("strictyaml: %s.%s has a yaml tag and is not exported", path, f.Name))
			case !f.IsExported():
			case !ok || name == "" || strings.Contains(name, ","):
				errs = append(errs, fmt.Errorf("strictyaml: %s.%s has no tag yaml:\"name\"", path, f.Name))
			default:
				errs = append(errs, checkType(f.Type, path+"."+f.Name, seen)...)
			}
		}
		return errs
	default:
		return []error{fmt.Errorf("strictyaml: %s: a %s cannot be decoded", path, t)}
	}
}

// into fills v, whose type Check has passed, from n.
func (d *Document) into(n *Node, v reflect.Value) {
	t := v.Type()
	switch {
	case t == timeType:
		if x, ok := d.Time(n); ok {
			v.Set(reflect.ValueOf(x))
		}
		return
	case t == durationType:
		if x, ok := d.Duration(n); ok {
			v.SetInt(int64(x))
		}
		return
	case reflect.PointerTo(t).Implements(textType):
		d.text(n, v)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		d.into(n, v.Elem())
	case reflect.String:
		if x, ok := d.Text(n); ok {
			v.SetString(x)
		}
	case reflect.Bool:
		if x, ok := d.Bool(n); ok {
			v.SetBool(x)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if x, ok := d.Int(n, t.Bits()); ok {
			v.SetInt(x)
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if x, ok := d.Uint(n, t.Bits()); ok {
			v.SetUint(x)
		}
	case reflect.Float64:
		if x, ok := d.Float(n); ok {
			v.SetFloat(x)
		}
	case reflect.Slice:
		d.slice(n, v)
	case reflect.Map:
		d.mapping(n, v)
	case reflect.Struct:
		d.structure(n, v)
	default: // Check refused it
	}
}

func (d *Document) text(n *Node, v reflect.Value) {
	if !d.scalarOnly(n, "text") {
		return
	}
	fresh := reflect.New(v.Type())
	u, ok := fresh.Interface().(encoding.TextUnmarshaler)
	if !ok {
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		d.Report(n, err.Error(), "")
		return
	}
	v.Set(fresh.Elem())
}

func (d *Document) slice(n *Node, v reflect.Value) {
	if !d.Want(n, Sequence) {
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items))
	for i, it := range n.Items {
		d.into(it, out.Index(i))
	}
	v.Set(out)
}

func (d *Document) mapping(n *Node, v reflect.Value) {
	if !d.Want(n, Mapping) {
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.Fields))
	for _, f := range n.Fields {
		e := reflect.New(v.Type().Elem()).Elem()
		d.into(f.Value, e)
		out.SetMapIndex(reflect.ValueOf(f.Key.Value).Convert(v.Type().Key()), e)
	}
	v.Set(out)
}

func (d *Document) structure(n *Node, v reflect.Value) {
	if !d.Want(n, Mapping) {
		return
	}
	t := v.Type()
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("yaml")
		if !f.IsExported() || name == "-" {
			continue
		}
		names = append(names, name)
		if child := n.Get(name); child != nil {
			d.into(child, v.Field(i))
		}
	}
	slices.Sort(names)
	d.OnlyKeys(n, names...)
}
