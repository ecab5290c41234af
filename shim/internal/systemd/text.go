package systemd

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"
)

// parseText reads a value in GVariant's text format, as far as properties of a
// unit need it: true, 'text', 7, uint64 7, ['a', 'b'], @as []. (The parser of
// godbus 5.2.2 panics at "@b []" and never ends with brackets in brackets.)
func parseText(text string) (dbus.Variant, error) {
	p := parser{rest: text}
	v, err := p.value()
	if err == nil && p.next() != 0 {
		err = errors.New("more than one value")
	}
	if err != nil {
		return dbus.Variant{}, err
	}
	return dbus.MakeVariant(v), nil
}

type parser struct{ rest string }

// next skips spaces and gives the first byte of what is left, 0 for nothing.
func (p *parser) next() byte {
	p.rest = strings.TrimLeft(p.rest, " \t\n")
	if p.rest == "" {
		return 0
	}
	return p.rest[0]
}

func (p *parser) value() (any, error) {
	switch p.next() {
	case '\'', '"':
		return p.text()
	case '[':
		return p.array()
	case '@':
		if rest, ok := strings.CutPrefix(p.rest, "@as"); ok {
			p.rest = rest
			if p.next() == '[' {
				return p.array()
			}
		}
		return nil, errors.New("of types only @as is known")
	}
	switch word := p.word(); word {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return p.number(word)
	}
}

// word is all up to a space, a comma or a bracket.
func (p *parser) word() string {
	p.next()
	n := strings.IndexAny(p.rest, " \t\n,[]()'\"")
	if n < 0 {
		n = len(p.rest)
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	return word
}

// number reads one whose type, if it is not plain, word has said.
func (p *parser) number(word string) (any, error) {
	digits := word
	switch word {
	case "byte", "int16", "uint16", "int32", "uint32", "int64", "uint64", "double":
		digits = p.word()
	default:
		word = ""
	}
	switch word {
	case "byte":
		v, err := strconv.ParseUint(digits, 0, 8)
		return byte(v), err
	case "int16":
		v, err := strconv.ParseInt(digits, 0, 16)
		return int16(v), err
	case "uint16":
		v, err := strconv.ParseUint(digits, 0, 16)
		return uint16(v), err
	case "uint32":
		v, err := strconv.ParseUint(digits, 0, 32)
		return uint32(v), err
	case "int64":
		return strconv.ParseInt(digits, 0, 64)
	case "uint64":
		return strconv.ParseUint(digits, 0, 64)
	case "double":
		return strconv.ParseFloat(digits, 64)
	case "":
		if strings.ContainsAny(digits, ".") {
			return strconv.ParseFloat(digits, 64)
		}
	}
	v, err := strconv.ParseInt(digits, 0, 32)
	return int32(v), err
}

func (p *parser) text() (string, error) {
	quote := p.rest[0]
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case quote:
			p.rest = p.rest[i+1:]
			// What a D-Bus string is.
			if s := b.String(); utf8.ValidString(s) && !strings.Contains(s, "\x00") {
				return s, nil
			}
			return "", errors.New("not text")
		case '\\':
			i++
			if i == len(p.rest) {
				return "", errors.New("no end")
			}
			switch c := p.rest[i]; c {
			case '\\', '\'', '"':
				b.WriteByte(c)
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			default:
				return "", errors.New("an unknown escape")
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", errors.New("no end")
}

// array is one of strings.
func (p *parser) array() ([]string, error) {
	p.rest = p.rest[1:]
	all := []string{}
	for {
		switch p.next() {
		case ']':
			p.rest = p.rest[1:]
			return all, nil
		case '\'', '"':
			s, err := p.text()
			if err != nil {
				return nil, err
			}
			all = append(all, s)
			switch p.next() {
			case ',':
				p.rest = p.rest[1:]
			case ']':
			default:
				return nil, errors.New("no comma between strings")
			}
		default:
			return nil, errors.New("of arrays only those of strings are known")
		}
	}
}
