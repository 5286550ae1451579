package bundle

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// specFields gives the pointers of all that has a value of its own, and of
// what holds it.
func specFields() (leaves, inner []string) {
	var walk func(t reflect.Type, at string)
	walk = func(t reflect.Type, at string) {
		switch t.Kind() {
		case reflect.Pointer:
			walk(t.Elem(), at)
		case reflect.Slice, reflect.Map:
			if k := t.Elem().Kind(); k != reflect.Struct {
				leaves = append(leaves, at)
				return
			}
			inner = append(inner, at)
			walk(t.Elem(), at+"/*")
		case reflect.Struct:
			if at != "" && strings.Count(at, "/") == 1 && slices.Contains([]string{"/solaris", "/windows", "/vm", "/zos", "/freebsd"}, at) {
				leaves = append(leaves, at)
				return
			}
			inner = append(inner, at)
			for f := range t.Fields() {
				if f.Anonymous {
					walk(f.Type, at)
					continue
				}
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				walk(f.Type, at+"/"+name)
			}
		default:
			leaves = append(leaves, at)
		}
	}
	walk(reflect.TypeFor[specs.Spec](), "")
	return leaves, inner
}

// TestFields: the table has every field of the specification, once, and none
// that it doesn't have.
func TestFields(t *testing.T) {
	leaves, inner := specFields()
	if len(leaves) < 150 {
		t.Fatalf("found only %d fields in the specification", len(leaves))
	}
	rows := map[string]Field{}
	for _, f := range Fields {
		if _, twice := rows[f.Pointer]; twice {
			t.Errorf("%s has two rows", f.Pointer)
		}
		rows[f.Pointer] = f
		if !slices.Contains(leaves, f.Pointer) && !slices.Contains(inner, f.Pointer) {
			t.Errorf("the specification has no %s", f.Pointer)
		}
		if f.Disposition != Honoured && f.Why == "" {
			t.Errorf("%s is %s without a reason", f.Pointer, f.Disposition)
		}
	}
	for _, p := range leaves {
		f, ok := rows[p]
		if !ok {
			t.Errorf("%s has no row", p)
			continue
		}
		if f.Disposition != Honoured {
			continue
		}
		// Somebody must take it: its own row, or one above.
		set := false
		for at := p; at != "" && !set; at = at[:strings.LastIndexByte(at, '/')] {
			set = rows[at].set != nil
		}
		if !set {
			t.Errorf("%s is honoured, and nothing takes it", p)
		}
	}
}
