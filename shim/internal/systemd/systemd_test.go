package systemd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// TestConvert: what the bus is told of a property. The rest is tested with
// systemd itself, in integration.
func TestConvert(t *testing.T) {
	for _, c := range []struct {
		p    program.Property
		want string // name, signature and value, or an error
	}{
		{program.Property{Name: "Slice", Value: "a.slice"}, `Slice s "a.slice"`},
		{program.Property{Name: "Delegate", Value: true}, `Delegate b true`},
		{program.Property{Name: "MemoryMax", Value: uint64(7)}, `MemoryMax t @t 7`},
		{program.Property{Name: "AllowedCPUs", Value: []byte{7, 1}}, `AllowedCPUs ay @ay [0x7, 0x1]`},
		{program.Property{Name: "CollectMode", Text: "'inactive'"}, `CollectMode s "inactive"`},
		{program.Property{Name: "After", Text: "['a.service', 'b.service']"}, `After as ["a.service", "b.service"]`},
		{program.Property{Name: "TimeoutStopSec", Text: "uint64 7"}, `TimeoutStopUSec t @t 7000000`},
		{program.Property{Name: "TimeoutStopSec", Text: "1.5"}, `TimeoutStopUSec t @t 1500000`},
		{program.Property{Name: "TimeoutStopUSec", Text: "uint64 7"}, `TimeoutStopUSec t @t 7`},
		{program.Property{Name: "CPUQuotaPerSecUSec", Text: "uint64 7"}, `CPUQuotaPerSecUSec t @t 7`},
		{program.Property{Name: "TimeoutStopSec", Text: "'7'", Field: "annotations[x]"}, `annotations[x]: "'7'": not a number`},
		{program.Property{Name: "Description", Text: "no quotes", Field: "annotations[x]"}, `annotations[x]: "no quotes": not a value`},
		{program.Property{Name: "X", Text: "int16 -3"}, `X n @n -3`},
		{program.Property{Name: "X", Text: "0x10"}, `X i 16`},
		{program.Property{Name: "X", Text: "byte 255"}, `X y @y 0xff`},
		{program.Property{Name: "X", Text: "uint32  5 "}, `X u @u 5`},
		{program.Property{Name: "X", Text: "int64 -1"}, `X x @x -1`},
		{program.Property{Name: "X", Text: "false"}, `X b false`},
		{program.Property{Name: "X", Text: "@as []"}, `X as @as []`},
		{program.Property{Name: "X", Text: `"a \"b\" \\ 'c'"`}, `X s "a \"b\" \\ 'c'"`},
		{program.Property{Name: "X", Text: "byte 256", Field: "annotations[x]"}, `annotations[x]: "byte 256": not a value`},
		{program.Property{Name: "X", Text: "['a' 'b']", Field: "annotations[x]"}, `annotations[x]: "['a' 'b']": not a value`},
		{program.Property{Name: "X", Text: "['a'", Field: "annotations[x]"}, `annotations[x]: "['a'": not a value`},
		{program.Property{Name: "X", Text: "'a' 'b'", Field: "annotations[x]"}, `annotations[x]: "'a' 'b'": not a value`},
		{program.Property{Name: "X", Text: "[('a', 1)]", Field: "annotations[x]"}, `annotations[x]: "[('a', 1)]": not a value`},
		{program.Property{Name: "X", Text: "@b []", Field: "annotations[x]"}, `annotations[x]: "@b []": not a value`},
		{program.Property{Name: "Description", Text: "", Field: "annotations[x]"}, `annotations[x]: "": not a value`},
	} {
		got, err := convert([]program.Property{c.p})
		text := ""
		switch {
		case err != nil:
			text = err.Error()
		case len(got) == 1:
			text = fmt.Sprintf("%s %s %s", got[0].Name, got[0].Value.Signature(), got[0].Value)
		}
		if text != c.want && (err == nil || !strings.HasPrefix(text, c.want)) {
			t.Errorf("%s %q: %s, want %s", c.p.Name, c.p.Text, text, c.want)
		}
	}
}

// FuzzConvert: an annotation is a value or an error.
func FuzzConvert(f *testing.F) {
	for _, s := range []string{"'a'", "uint64 7", "['a']", "true", "(1, 'a')", "@as []", "{", "<", "\\"} {
		f.Add("XSec", s)
	}
	f.Fuzz(func(_ *testing.T, name, text string) {
		_, _ = convert([]program.Property{{Name: name, Text: text}})
	})
}
