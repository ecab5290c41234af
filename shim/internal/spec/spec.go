// Package spec reads the JSON of the runtime-spec, RFC 8259, into the types of
// specs-go: config.json, the process of an exec, the resources of an update.
//
// encoding/json would do it as well. But the first time it meets a type it
// builds tables for reading and writing it and all that it may hold, and a shim
// reads one config.json in its life: of config.json's 1.35 ms and 237 kB nine
// tenths were tables, most of them kept. This decoder has none. It looks at the
// types as it meets their values, and names the field that is wrong.
//
// It differs from encoding/json where a runtime is better strict: a name must
// match exactly, and the same name twice in an object is an error. Two readers
// of such a file could believe different things.
package spec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth of objects and arrays within each other: config.json needs seven.
const maxDepth = 100

// Unmarshal reads data into what v points to: structs, slices, maps with string
// keys, pointers, strings, numbers, booleans. Names that the types lack are
// passed over, as the spec asks (config.md, Extensibility).
func Unmarshal(data []byte, v any) error {
	d := decoder{data: data}
	if err := d.value(reflect.ValueOf(v).Elem(), 0); err != nil {
		return err
	}
	if d.peek() != 0 || d.pos < len(d.data) {
		return d.syntax("the end")
	}
	return nil
}

type decoder struct {
	data []byte
	pos  int
}

// at says which field an error is about.
func at(field string, err error) error {
	var e *fieldError
	if !errors.As(err, &e) {
		return &fieldError{path: field, err: err}
	}
	if strings.HasPrefix(e.path, "[") {
		e.path = field + e.path
	} else {
		e.path = field + "." + e.path
	}
	return e
}

type fieldError struct {
	path string
	err  error
}

func (e *fieldError) Error() string { return e.path + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

func (d *decoder) syntax(want string) error {
	if d.pos >= len(d.data) {
		return fmt.Errorf("JSON ends where %s was to be", want)
	}
	r, _ := utf8.DecodeRune(d.data[d.pos:])
	return fmt.Errorf("JSON at byte %d: %q where %s was to be", d.pos, r, want)
}

// peek is the next byte that is not white space, 0 at the end.
func (d *decoder) peek() byte {
	for ; d.pos < len(d.data); d.pos++ {
		switch c := d.data[d.pos]; c {
		case ' ', '\n', '\t', '\r':
		default:
			return c
		}
	}
	return 0
}

// take skips c, if it is next.
func (d *decoder) take(c byte) bool {
	if d.peek() != c {
		return false
	}
	d.pos++
	return true
}

func (d *decoder) literal(s string) bool {
	if d.peek(); !strings.HasPrefix(string(d.data[d.pos:min(d.pos+len(s), len(d.data))]), s) {
		return false
	}
	d.pos += len(s)
	return true
}

// value reads the next value into v. null leaves what is there.
func (d *decoder) value(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("more than %d levels deep", maxDepth)
	}
	if d.peek() == 'n' {
		return d.skip(depth)
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if err := d.value(p.Elem(), depth); err != nil {
			return err
		}
		v.Set(p)
		return nil
	case reflect.Struct:
		return d.structure(v, depth)
	case reflect.Map:
		return d.mapping(v, depth)
	case reflect.Slice:
		return d.slice(v, depth)
	case reflect.String:
		s, err := d.text()
		v.SetString(s)
		return err
	case reflect.Bool:
		b := d.literal("true")
		if !b && !d.literal("false") {
			return d.syntax("true or false")
		}
		v.SetBool(b)
		return nil
	case reflect.Interface: // windows.credentialSpec alone
		return d.skip(depth)
	default:
		return d.number(v)
	}
}

// object calls member with each name of an object; member reads its value.
func (d *decoder) object(member func(name string) error) error {
	if !d.take('{') {
		return d.syntax("an object")
	}
	if d.take('}') {
		return nil
	}
	for {
		d.peek()
		name, err := d.text()
		if err != nil {
			return err
		}
		if !d.take(':') {
			return d.syntax("a colon")
		}
		if err := member(name); err != nil {
			return err
		}
		if d.take('}') {
			return nil
		}
		if !d.take(',') {
			return d.syntax("a comma or }")
		}
	}
}

// array calls element before each element of an array; element reads it.
func (d *decoder) array(element func() error) error {
	if !d.take('[') {
		return d.syntax("an array")
	}
	if d.take(']') {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if d.take(']') {
			return nil
		}
		if !d.take(',') {
			return d.syntax("a comma or ]")
		}
	}
}

func (d *decoder) structure(v reflect.Value, depth int) error {
	var seen [4]uint64 // no type of the spec has 256 fields
	next := 0          // where the field after the last one is: they mostly come in order
	return d.object(func(name string) error {
		f, i := field(v, name, next)
		if i < 0 {
			return d.skip(depth)
		}
		if seen[i/64]&(1<<(i%64)) != 0 {
			return at(name, errTwice)
		}
		seen[i/64] |= 1 << (i % 64)
		next = i + 1
		if err := d.value(f, depth+1); err != nil {
			return at(name, err)
		}
		return nil
	})
}

var errTwice = errors.New("given twice")

// field is the field of v with that name in JSON, and its number; -1 without
// one. Fields of an embedded struct count as v's own.
func field(v reflect.Value, name string, next int) (f reflect.Value, number int) {
	n := count(v.Type())
	for i := range n {
		number := (next + i) % n
		if f, is := numbered(v, number); is == name {
			return f, number
		}
	}
	return reflect.Value{}, -1
}

// count and numbered make one row of the fields of t and of those it embeds.
func count(t reflect.Type) int {
	n := t.NumField()
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous {
			n += count(f.Type) - 1
		}
	}
	return n
}

func numbered(v reflect.Value, number int) (f reflect.Value, name string) {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous {
			n := count(sf.Type)
			if number < n {
				return numbered(v.Field(i), number)
			}
			number -= n
			continue
		}
		if number == 0 {
			name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
			return v.Field(i), name
		}
		number--
	}
	panic("no such field")
}

func (d *decoder) mapping(v reflect.Value, depth int) error {
	t := v.Type()
	v.Set(reflect.MakeMap(t))
	return d.object(func(name string) error {
		key := reflect.ValueOf(name).Convert(t.Key())
		if v.MapIndex(key).IsValid() {
			return at(name, errTwice)
		}
		elem := reflect.New(t.Elem()).Elem()
		if err := d.value(elem, depth+1); err != nil {
			return at(name, err)
		}
		v.SetMapIndex(key, elem)
		return nil
	})
}

func (d *decoder) slice(v reflect.Value, depth int) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	return d.array(func() error {
		i := v.Len()
		v.Grow(1)
		v.SetLen(i + 1)
		if err := d.value(v.Index(i), depth+1); err != nil {
			return at("["+strconv.Itoa(i)+"]", err)
		}
		return nil
	})
}

// number reads an integer; what is too large for the field, or has a fraction,
// is an error.
func (d *decoder) number(v reflect.Value) error {
	s := d.digits()
	if s == "" {
		return d.syntax("a number")
	}
	var err error
	switch {
	case v.CanInt():
		var n int64
		n, err = strconv.ParseInt(s, 10, v.Type().Bits())
		v.SetInt(n)
	case v.CanUint():
		var n uint64
		n, err = strconv.ParseUint(s, 10, v.Type().Bits())
		v.SetUint(n)
	default:
		return fmt.Errorf("%s: a type that the spec does not use", v.Type())
	}
	if err != nil {
		return fmt.Errorf("%s: want %s", s, v.Kind())
	}
	return nil
}

// digits takes a number: -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?
func (d *decoder) digits() string {
	d.peek()
	rest := d.data[d.pos:]
	i := 0
	is := func(set string) bool { return i < len(rest) && strings.IndexByte(set, rest[i]) >= 0 }
	run := func() bool {
		start := i
		for is("0123456789") {
			i++
		}
		return i > start
	}
	if is("-") {
		i++
	}
	if is("0") {
		i++
	} else if !run() {
		return ""
	}
	if is(".") {
		if i++; !run() {
			return ""
		}
	}
	if is("eE") {
		if i++; is("+-") {
			i++
		}
		if !run() {
			return ""
		}
	}
	d.pos += i
	return string(rest[:i])
}

// skip passes over a value.
func (d *decoder) skip(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("more than %d levels deep", maxDepth)
	}
	switch c := d.peek(); c {
	case '{':
		return d.object(func(string) error { return d.skip(depth + 1) })
	case '[':
		return d.array(func() error { return d.skip(depth + 1) })
	case '"':
		_, err := d.text()
		return err
	default:
		if d.literal("null") || d.literal("true") || d.literal("false") || d.digits() != "" {
			return nil
		}
		return d.syntax("a value")
	}
}

// text reads a string. What is not UTF-8 in it becomes U+FFFD, as in
// encoding/json.
func (d *decoder) text() (string, error) {
	if !d.take('"') {
		return "", d.syntax("a string")
	}
	start := d.pos
	for {
		d.pos += plain(d.data[d.pos:])
		if d.pos == len(d.data) {
			return "", d.syntax("the end of a string")
		}
		switch c := d.data[d.pos]; {
		case c == '"':
			d.pos++
			return string(d.data[start : d.pos-1]), nil
		case c == '\\' || c >= utf8.RuneSelf:
			return d.escaped(start)
		case c < ' ':
			return "", d.syntax("a character of a string")
		}
		d.pos++
	}
}

// plain counts bytes that stand for themselves in a string, eight at a time: ASCII, and no '"', '\' or control
// character. Below, a byte that is less than another borrows from its highest bit.
func plain(b []byte) (n int) {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		if (w|(w-ones*' ')|((w^ones*'"')-ones)|((w^ones*'\\')-ones))&high != 0 {
			return n
		}
	}
	return n
}

// escaped goes on with a string that is not its own bytes.
func (d *decoder) escaped(start int) (string, error) {
	out := append([]byte(nil), d.data[start:d.pos]...)
	for d.pos < len(d.data) {
		switch c := d.data[d.pos]; {
		case c == '"':
			d.pos++
			return string(out), nil
		case c == '\\':
			r, err := d.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		case c < ' ':
			return "", d.syntax("a character of a string")
		default:
			r, n := utf8.DecodeRune(d.data[d.pos:])
			out = utf8.AppendRune(out, r)
			d.pos += n
		}
	}
	return "", d.syntax("the end of a string")
}

// escapes are those of one character, each before what it stands for.
const escapes = "\"\"\\\\//b\bf\fn\nr\rt\t"

func (d *decoder) escape() (rune, error) {
	d.pos++
	if d.pos >= len(d.data) {
		return 0, d.syntax("an escape")
	}
	c := d.data[d.pos]
	for i := 0; i < len(escapes); i += 2 {
		if c == escapes[i] {
			d.pos++
			return rune(escapes[i+1]), nil
		}
	}
	r, ok := d.hex(d.pos)
	if !ok {
		return 0, d.syntax("an escape")
	}
	d.pos += 5
	if utf16.IsSurrogate(r) {
		r2, ok := rune(0), false
		if d.pos < len(d.data) && d.data[d.pos] == '\\' {
			r2, ok = d.hex(d.pos + 1)
		}
		if both := utf16.DecodeRune(r, r2); ok && both != utf8.RuneError {
			d.pos += 6
			return both, nil
		}
		return utf8.RuneError, nil
	}
	return r, nil
}

// hex reads the u0000 of an escape.
func (d *decoder) hex(i int) (rune, bool) {
	if i+5 > len(d.data) || d.data[i] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(d.data[i+1:i+5]), 16, 16)
	return rune(n), err == nil
}
