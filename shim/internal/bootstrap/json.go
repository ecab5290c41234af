package bootstrap

import (
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A reader of two strings in two files, RFC 8259. encoding/json would cost
// `start` and `delete` more than all they do. What it does not look at need not
// be JSON: that is for the daemon to say, which reads the whole file. Names are
// taken exactly; of two that are equal the last counts, as in encoding/json.

var errJSON = errors.New("malformed JSON")

// member is the value called name of an object, as it stands there; nil where
// there is none.
func member(object []byte, name string) (value []byte, err error) {
	i := space(object, 0)
	if at(object, i) != '{' {
		return nil, errJSON
	}
	i = space(object, i+1)
	for at(object, i) != '}' {
		end := stringEnd(object, i)
		colon := space(object, end)
		if at(object, colon) != ':' {
			return nil, errJSON
		}
		key, err := unquote(object[i:end])
		if err != nil {
			return nil, err
		}
		start := space(object, colon+1)
		end = valueEnd(object, start)
		if end == start {
			return nil, errJSON
		}
		if key == name {
			value = object[start:end]
		}
		i = space(object, end)
		switch at(object, i) {
		case ',':
			if i = space(object, i+1); at(object, i) == '}' {
				return nil, errJSON
			}
		case '}':
		default:
			return nil, errJSON
		}
	}
	return value, nil
}

// text is the string called name of an object; "" where there is none.
func text(object []byte, name string) (string, error) {
	value, err := member(object, name)
	if err != nil || value == nil || string(value) == "null" {
		return "", err
	}
	return unquote(value)
}

// at is the byte at i, 0 at the end.
func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// stringEnd is where the string at i ends, or i if there is none.
func stringEnd(b []byte, i int) int {
	if at(b, i) != '"' {
		return i
	}
	for j := i + 1; j < len(b); j++ {
		switch b[j] {
		case '"':
			return j + 1
		case '\\':
			j++
		}
	}
	return i
}

// valueEnd is where the value at i ends, or i if there is none.
func valueEnd(b []byte, i int) int {
	depth := 0
	for j := i; j < len(b); {
		switch b[j] {
		case '"':
			end := stringEnd(b, j)
			if end == j {
				return i
			}
			j = end
		case '{', '[':
			depth++
			j++
		case '}', ']':
			if depth == 0 {
				return j
			}
			depth--
			j++
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return j
			}
			j++
			continue
		default: // a number, true, false, null; or a colon
			j++
			continue
		}
		if depth == 0 {
			return j
		}
	}
	return i
}

// unquote is what the string literal s stands for.
func unquote(s []byte) (string, error) {
	if len(s) < 2 || s[0] != '"' {
		return "", errJSON
	}
	s = s[1 : len(s)-1]
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		if s[0] != '\\' {
			out = append(out, s[0])
			s = s[1:]
			continue
		}
		if len(s) < 2 {
			return "", errJSON
		}
		c := s[1]
		s = s[2:]
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := hex4(s)
			if !ok {
				return "", errJSON
			}
			s = s[4:]
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if at(s, 0) == '\\' && at(s, 1) == 'u' {
					low, _ = hex4(s[2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					s = s[6:]
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", errJSON
		}
	}
	return string(out), nil
}

func hex4(s []byte) (rune, bool) {
	if len(s) < 4 {
		return -1, false
	}
	v, err := strconv.ParseUint(string(s[:4]), 16, 16)
	if err != nil {
		return -1, false
	}
	return rune(v), true
}
