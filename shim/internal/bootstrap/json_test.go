package bootstrap

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestMember(t *testing.T) {
	for _, c := range []struct{ object, want string }{
		{`{}`, ""},
		{`{"a":"x","annotations":"y"}`, "y"},
		{` { "b" : [1, {"annotations":"no"}, "]"] , "annotations" : "y" } `, "y"},
		{`{"annotations":"first","annotations":"last"}`, "last"},
		{`{"\u0061nnotations":"\u00e9\ud83d\ude00\/\n"}`, "é😀/\n"},
		{`{"annotations":null}`, ""},
		{`{"a":{"b":"}\"{"},"annotations":"y"}`, "y"},
	} {
		if got, err := text([]byte(c.object), "annotations"); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", c.object, got, err)
		}
	}
	for _, object := range []string{
		"", "x", "[]", `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1 "b":2}`, `{"a":[1}`, `{"a":"`, `{"annotations":1}`,
		`{"annotations":"\x"}`, `{"annotations":"\u12"}`, `{"annotations":"a`, `{"a":1`,
	} {
		if got, err := text([]byte(object), "annotations"); err == nil {
			t.Errorf("%s: %q", object, got)
		}
	}
}

// FuzzMember: of what encoding/json accepts, it reads the same string.
func FuzzMember(f *testing.F) {
	f.Add(`{"ociVersion":"1.2.0","annotations":{"k":"v"},"k":"\u0041\ud800"}`)
	f.Add(`{"k":"a","a":[{"k":"\""},1e9,true,null],"k":"b"}`)
	f.Fuzz(func(t *testing.T, object string) {
		got, err := text([]byte(object), "k")
		var want map[string]any
		if !utf8.ValidString(object) || json.Unmarshal([]byte(object), &want) != nil || want == nil {
			return
		}
		switch v := want["k"].(type) {
		case string:
			if err != nil || got != v {
				t.Errorf("%q, %v; encoding/json says %q", got, err, v)
			}
		case nil:
			if err != nil || got != "" {
				t.Errorf("%q, %v; encoding/json says there is none", got, err)
			}
		default:
			if err == nil {
				t.Errorf("%q; encoding/json says %v", got, v)
			}
		}
	})
}
