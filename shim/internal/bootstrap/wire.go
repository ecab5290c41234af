package bootstrap

import "errors"

// The few messages of start and delete, on the wire:
// protobuf.dev/programming-guides/encoding. A test compares them with
// containerd's generated types.

var errWire = errors.New("malformed protobuf")

// field is one field of a message: its bytes are those of wire type 2.
type field struct {
	num, wire uint64
	bytes     []byte
}

// next splits the first field off b.
func next(b []byte) (f field, rest []byte, err error) {
	tag, b, err := varint(b)
	if err != nil {
		return f, nil, err
	}
	f.num, f.wire = tag>>3, tag&7
	var size uint64
	switch f.wire {
	case 0:
		_, b, err = varint(b)
		return f, b, err
	case 1:
		size = 8
	case 5:
		size = 4
	case 2:
		if size, b, err = varint(b); err != nil {
			return f, nil, err
		}
	default:
		return f, nil, errWire
	}
	if size > uint64(len(b)) {
		return f, nil, errWire
	}
	f.bytes = b[:size]
	return f, b[size:], nil
}

func varint(b []byte) (v uint64, rest []byte, err error) {
	for i := 0; i < len(b) && i < 10; i++ {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, b[i+1:], nil
		}
	}
	return 0, nil, errWire
}

func appendVarint(b []byte, v uint64) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendUint(b []byte, num, v uint64) []byte {
	return appendVarint(appendVarint(b, num<<3), v)
}

func appendBytes(b []byte, num uint64, v []byte) []byte {
	b = appendVarint(b, num<<3|2)
	b = appendVarint(b, uint64(len(v)))
	return append(b, v...)
}

// params are the fields of containerd.runtime.bootstrap.v1.BootstrapParams that
// matter here.
type params struct {
	id, namespace, socketDir string
	options                  anyMessage
}

// parseParams tells whether stdin is a BootstrapParams for this very shim. What
// older daemons send are the options alone, an Any, whose first two fields are
// other things.
func parseParams(stdin []byte, a *Args) (p params, modern bool) {
	err := eachBytes(stdin, func(num uint64, b []byte) error {
		switch num {
		case 1:
			p.id = string(b)
		case 2:
			p.namespace = string(b)
		case 8: // an extension, whose field 1 is an Any: one that we know is of options
			return eachBytes(b, func(num uint64, b []byte) error {
				if o, err := parseAny(b); num == 1 && err == nil && o.known() {
					p.options = o
				}
				return nil
			})
		case 9:
			p.socketDir = string(b)
		}
		return nil
	})
	if err == nil && p.id == a.ID && p.namespace == a.Namespace {
		return p, true
	}
	o, err := parseAny(stdin)
	if err != nil || !o.known() {
		o = anyMessage{}
	}
	return params{options: o}, false
}

// eachBytes calls f with each field of wire type 2: none of ours has another,
// whatever its number.
func eachBytes(message []byte, f func(num uint64, b []byte) error) error {
	for len(message) > 0 {
		field, rest, err := next(message)
		if err != nil {
			return err
		}
		if field.wire == 2 {
			if err := f(field.num, field.bytes); err != nil {
				return err
			}
		}
		message = rest
	}
	return nil
}

// anyMessage is google.protobuf.Any.
type anyMessage struct {
	typeURL string
	value   []byte
}

func parseAny(b []byte) (a anyMessage, err error) {
	err = eachBytes(b, func(num uint64, b []byte) error {
		switch num {
		case 1:
			a.typeURL = string(b)
		case 2:
			a.value = b
		}
		return nil
	})
	return a, err
}

// Types of options that may name a group: proto/options, which has it in field 2,
// and what containerd has for any runtime, a path in field 2 or the TOML itself in
// field 3.
const (
	miniOptions    = "containerd.mini.v1.Options"
	runtimeOptions = "runtimeoptions.v1.Options"
)

func (a anyMessage) known() bool { return a.typeURL == miniOptions || a.typeURL == runtimeOptions }

// mayName tells whether options may have the one of that name.
func (a anyMessage) mayName(option string) (may bool) {
	_ = eachBytes(a.value, func(num uint64, b []byte) error { // errors are found when it is read
		_, _, named := cut(string(b), option)
		may = may || num == 2 && len(b) > 0 || num == 3 && named
		return nil
	})
	return may
}

// result is a BootstrapResult. Its one extension says that this shim mounts
// nothing but what runtimes always did; without it containerd 2.4 would run
// `-info` at every Create to find out.
func result(address string) []byte {
	extension := appendBytes(nil, 1, appendBytes(nil, 1, []byte("containerd.types.MountCapabilities")))
	b := appendUint(nil, 1, 3)
	b = appendBytes(b, 2, []byte(address))
	b = appendBytes(b, 3, []byte("ttrpc"))
	return appendBytes(b, 6, extension)
}

// deleteResponse is a containerd.task.v2.DeleteResponse: exit_status 2, and
// exited_at 3, a Timestamp.
func deleteResponse(status uint32, seconds int64, nanos int) []byte {
	b := appendUint(nil, 2, uint64(status))
	at := appendUint(nil, 1, uint64(seconds))
	return appendBytes(b, 3, appendUint(at, 2, uint64(nanos)))
}
