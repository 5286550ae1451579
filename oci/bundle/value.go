package bundle

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// AppendValue writes plain data (structs with json tags, maps with names,
// lists, numbers, texts) as encoding/json writes it, without its weight in a
// program that starts for every container: resources that are kept, and what
// containers use.
func AppendValue(b []byte, v any) []byte {
	w := writer{b: b}
	w.value(reflect.ValueOf(v))
	return w.b
}

func (w *writer) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			w.b = append(w.b, "null"...)
			return
		}
		w.value(v.Elem())
	case reflect.Bool:
		w.b = strconv.AppendBool(w.b, v.Bool())
	case reflect.String:
		w.b = appendString(w.b, v.String())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		w.b = strconv.AppendInt(w.b, v.Int(), 10)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		w.b = strconv.AppendUint(w.b, v.Uint(), 10)
	case reflect.Float32, reflect.Float64:
		w.b = strconv.AppendFloat(w.b, v.Float(), 'f', -1, 64)
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			w.b = append(w.b, "null"...)
			return
		}
		w.open('[')
		for i := range v.Len() {
			w.next()
			w.value(v.Index(i))
		}
		w.close(']')
	case reflect.Map:
		if v.IsNil() {
			w.b = append(w.b, "null"...)
			return
		}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		w.open('{')
		for _, k := range keys {
			w.name(k.String())
			w.value(v.MapIndex(k))
		}
		w.close('}')
	case reflect.Struct:
		w.open('{')
		w.fields(v)
		w.close('}')
	default:
		panic("bundle: a " + v.Kind().String() + " has no JSON")
	}
}

func (w *writer) fields(v reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous && name == "":
			w.fields(v.Field(i))
			continue
		case name == "":
			name = f.Name
		}
		if x := v.Field(i); options != "omitempty" || !nothing(x) {
			w.name(name)
			w.value(x)
		}
	}
}

// nothing is what omitempty leaves out.
func nothing(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.Array, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}
