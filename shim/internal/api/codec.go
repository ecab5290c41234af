package api

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// number is what a field is called on the wire.
func number(f reflect.StructField) protowire.Number {
	n, err := strconv.ParseUint(f.Tag.Get("pb"), 10, 16)
	if err != nil {
		panic(f.Name + ": a field of a message without a number")
	}
	return protowire.Number(n)
}

// Marshal encodes the message that m points to. As in proto3, a field that is
// zero is not there.
func Marshal(m any) []byte { return Append(nil, m) }

// Append is Marshal to the end of b.
func Append(b []byte, m any) []byte { return appendMessage(b, reflect.ValueOf(m).Elem()) }

func appendMessage(b []byte, m reflect.Value) []byte {
	for i := range m.NumField() {
		v := m.Field(i)
		if k := v.Kind(); v.IsZero() || (k == reflect.Slice || k == reflect.Map) && v.Len() == 0 {
			continue
		}
		n := number(m.Type().Field(i))
		switch {
		case v.Kind() == reflect.Map:
			for e := v.MapRange(); e.Next(); {
				entry := appendValue(appendValue(nil, 1, e.Key()), 2, e.Value())
				b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), entry)
			}
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
			for j := range v.Len() {
				b = appendValue(b, n, v.Index(j))
			}
		default:
			b = appendValue(b, n, v)
		}
	}
	return b
}

func appendValue(b []byte, n protowire.Number, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Pointer:
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), appendMessage(nil, v.Elem()))
	case reflect.String:
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v.String())
	case reflect.Slice:
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v.Bytes())
	case reflect.Bool:
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), protowire.EncodeBool(v.Bool()))
	case reflect.Float64:
		return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), math.Float64bits(v.Float()))
	case reflect.Int32, reflect.Int64:
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v.Int()))
	default:
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v.Uint())
	}
}

// Unmarshal decodes data into the message that m points to. Fields that it
// lacks are passed over.
func Unmarshal(data []byte, m any) error { return message(data, reflect.ValueOf(m).Elem()) }

func message(data []byte, m reflect.Value) error {
	for len(data) > 0 {
		n, typ, size := protowire.ConsumeTag(data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		data = data[size:]
		size = protowire.ConsumeFieldValue(n, typ, data)
		if size < 0 {
			return protowire.ParseError(size)
		}
		name, v := field(m, n)
		if v.IsValid() && wireType(v.Type()) == typ {
			if err := set(v, data[:size]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		data = data[size:]
	}
	return nil
}

func field(m reflect.Value, n protowire.Number) (name string, v reflect.Value) {
	for i := range m.NumField() {
		if f := m.Type().Field(i); number(f) == n {
			return f.Name, m.Field(i)
		}
	}
	return "", reflect.Value{}
}

// wireType of a field: none of the repeated ones is of numbers, so none is
// packed.
func wireType(t reflect.Type) protowire.Type {
	switch t.Kind() {
	case reflect.Pointer, reflect.String, reflect.Slice, reflect.Map:
		return protowire.BytesType
	case reflect.Float64:
		return protowire.Fixed64Type
	default:
		return protowire.VarintType
	}
}

var errUTF8 = errors.New("a string that is not UTF-8")

// set takes a value of v's wire type, which is whole.
func set(v reflect.Value, data []byte) error {
	if typ := wireType(v.Type()); typ != protowire.BytesType {
		setNumber(v, data)
		return nil
	}
	data, _ = protowire.ConsumeBytes(data)
	switch k := v.Kind(); {
	case k == reflect.String:
		if !utf8.Valid(data) {
			return errUTF8
		}
		v.SetString(string(data))
		return nil
	case k == reflect.Pointer: // given twice, both are merged
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return message(data, v.Elem())
	case k == reflect.Map:
		var e entry
		if err := message(data, reflect.ValueOf(&e).Elem()); err != nil {
			return err
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		v.SetMapIndex(reflect.ValueOf(e.Key), reflect.ValueOf(e.Value))
		return nil
	case v.Type().Elem().Kind() == reflect.Uint8:
		v.SetBytes(append([]byte{}, data...)) // data is the transport's
		return nil
	default: // one more of a repeated field
		e := reflect.New(v.Type().Elem()).Elem()
		if err := set(e, protowire.AppendBytes(nil, data)); err != nil {
			return err
		}
		v.Set(reflect.Append(v, e))
		return nil
	}
}

func setNumber(v reflect.Value, data []byte) {
	if v.Kind() == reflect.Float64 {
		n, _ := protowire.ConsumeFixed64(data)
		v.SetFloat(math.Float64frombits(n))
		return
	}
	n, _ := protowire.ConsumeVarint(data)
	switch { // what is too large is cut, as the encoding's guide says
	case v.Kind() == reflect.Bool:
		v.SetBool(protowire.DecodeBool(n))
	case v.Kind() == reflect.Int32:
		v.SetInt(int64(int32(n)))
	case v.Kind() == reflect.Uint32:
		v.SetUint(uint64(uint32(n)))
	case v.CanInt():
		v.SetInt(int64(n))
	default:
		v.SetUint(n)
	}
}

// entry is one of a map.
type entry struct {
	Key   string `pb:"1"`
	Value string `pb:"2"`
}
