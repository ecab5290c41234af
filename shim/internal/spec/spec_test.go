package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// full is a value of a type with everything in it set, so that all of it is
// seen in its JSON.
func full(t *testing.T, typ reflect.Type, depth int) reflect.Value {
	t.Helper()
	v := reflect.New(typ).Elem()
	switch typ.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(typ.Elem()))
		v.Elem().Set(full(t, typ.Elem(), depth+1))
	case reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Anonymous {
				for j := range f.Type.NumField() {
					v.Field(i).Field(j).Set(full(t, f.Type.Field(j).Type, depth+1))
				}
				continue
			}
			v.Field(i).Set(full(t, f.Type, depth+1))
		}
	case reflect.Slice:
		v.Set(reflect.Append(v, full(t, typ.Elem(), depth+1), full(t, typ.Elem(), depth+1)))
	case reflect.Map:
		v.Set(reflect.MakeMap(typ))
		v.SetMapIndex(reflect.ValueOf("key é").Convert(typ.Key()), full(t, typ.Elem(), depth+1))
	case reflect.String:
		v.SetString("text <\"\\\u2028\x01ü😀>" + typ.Name())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Interface: // passed over
	default:
		switch {
		case v.CanInt():
			v.SetInt(-int64(depth) - 1)
		case v.CanUint():
			v.SetUint(uint64(depth) + 1)
		default:
			t.Fatalf("%s: a kind that Unmarshal does not know", typ)
		}
	}
	return v
}

// TestWholeSpec: every field of the types that a shim is given, on all
// platforms, arrives.
func TestWholeSpec(t *testing.T) {
	for _, v := range []any{specs.Spec{}, specs.Process{}, specs.LinuxResources{}} {
		want := full(t, reflect.TypeOf(v), 0)
		data, err := json.MarshalIndent(want.Interface(), "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(want.Type())
		if err := Unmarshal(data, got.Interface()); err != nil {
			t.Errorf("%T: %v", v, err)
			continue
		}
		if !reflect.DeepEqual(got.Elem().Interface(), want.Interface()) {
			again, _ := json.MarshalIndent(got.Interface(), "", "\t")
			t.Errorf("%T: %s\nwant %s", v, again, data)
		}
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		``:                                   "JSON ends where an object was to be",
		`[]`:                                 `JSON at byte 0: '[' where an object was to be`,
		`{} x`:                               `JSON at byte 3: 'x' where the end was to be`,
		`{}` + "\x00":                        `JSON at byte 2: '\x00' where the end was to be`,
		`{"hostname":1}`:                     `hostname: JSON at byte 12: '1' where a string was to be`,
		`{"process":{"user":{"uid":-1}}}`:    "process.user.uid: -1: want uint32",
		`{"process":{"user":{"uid":1.5}}}`:   "process.user.uid: 1.5: want uint32",
		`{"process":{"args":["a",{}]}}`:      `process.args[1]: JSON at byte 24: '{' where a string was to be`,
		`{"mounts":[{"options":["a" "b"]}]}`: `mounts[0].options: JSON at byte 27: '"' where a comma or ] was to be`,
		`{"hostname":"a","hostname":"b"}`:    "hostname: given twice",
		`{"annotations":{"a":"","a":""}}`:    "annotations.a: given twice",
		`{"hostname":"a`:                     "hostname: JSON ends where the end of a string was to be",
		`{"hostname":"\x"}`:                  `hostname: JSON at byte 14: 'x' where an escape was to be`,
		`{"hostname":"` + "\n" + `"}`:        `hostname: JSON at byte 13: '\n' where a character of a string was to be`,
		`{"x":01}`:                           `JSON at byte 6: '1' where a comma or } was to be`,
		`{"x":` + strings.Repeat("[", 200):   "more than 100 levels deep",
		`{"root":{"readonly":"yes"}}`:        `root.readonly: JSON at byte 20: '"' where true or false was to be`,
	} {
		var s specs.Spec
		if err := Unmarshal([]byte(in), &s); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
}

// Every byte at every place of a string of 17, of which the decoder looks at eight at a time.
func TestStrings(t *testing.T) {
	for at := range 17 {
		for c := range 256 {
			text := []byte(`{"hostname":"xxxxxxxxxxxxxxxxx"}`)
			text[len(`{"hostname":"`)+at] = byte(c)
			var got, want specs.Spec
			err, wantErr := Unmarshal(text, &got), json.Unmarshal(text, &want)
			if (err == nil) != (wantErr == nil) || err == nil && got.Hostname != want.Hostname {
				t.Errorf("%q: %q, %v; encoding/json: %q, %v", text, got.Hostname, err, want.Hostname, wantErr)
			}
		}
	}
}

// BenchmarkProcess reads what an exec sends.
func BenchmarkProcess(b *testing.B) {
	for _, kib := range []int{1, 64} {
		process := specs.Process{Args: []string{"/bin/true"}, Cwd: "/"}
		for i := range kib {
			process.Env = append(process.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 1018)))
		}
		data, err := json.Marshal(process)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("env=%dKiB", kib), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Unmarshal(data, new(specs.Process)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzUnmarshal: what it reads, encoding/json reads the same way; and what
// encoding/json reads is refused only where this is stricter on purpose.
func FuzzUnmarshal(f *testing.F) {
	f.Add(`{"ociVersion":"1.3.0","process":{"args":["\u00e9\ud83d\ude00","b"],"user":{"uid":7},"rlimits":[]},"x":[1e9,-0.5,null]}`)
	f.Add(`{"linux":{"resources":{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}]},"unified":{"a":"b"}}},"hooks":null}`)
	f.Fuzz(func(t *testing.T, in string) {
		var got, want specs.Spec
		err, wantErr := Unmarshal([]byte(in), &got), json.Unmarshal([]byte(in), &want)
		switch {
		case err == nil && wantErr != nil && !insensitive(in):
			t.Errorf("accepted; encoding/json says %v", wantErr)
		case err == nil && !reflect.DeepEqual(&got, &want) && !insensitive(in):
			t.Errorf("%+v, encoding/json says %+v", got, want)
		case err != nil && wantErr == nil && !strict(err) && !insensitive(in):
			t.Errorf("%v; encoding/json accepts it", err)
		}
	})
}

// strict are the two refusals that encoding/json does not share.
func strict(err error) bool {
	return strings.Contains(err.Error(), "given twice") || strings.Contains(err.Error(), "levels deep")
}

// insensitive tells that encoding/json may have taken a name for another: it
// looks at no case, and takes a null in a string's place inside a map or slice
// for the empty one.
func insensitive(in string) bool {
	var v any
	if json.Unmarshal([]byte(in), &v) != nil {
		return false
	}
	names := map[string]bool{}
	fieldNames(reflect.TypeFor[specs.Spec](), names)
	return otherCase(v, names)
}

func fieldNames(t reflect.Type, names map[string]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		fieldNames(t.Elem(), names)
	case reflect.Struct:
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			names[name] = true
			fieldNames(t.Field(i).Type, names)
		}
	}
}

func otherCase(v any, names map[string]bool) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, elem := range v {
			for known := range names {
				if name != known && strings.EqualFold(name, known) {
					return true
				}
			}
			if otherCase(elem, names) {
				return true
			}
		}
	case []any:
		for _, elem := range v {
			if otherCase(elem, names) {
				return true
			}
		}
	}
	return false
}
