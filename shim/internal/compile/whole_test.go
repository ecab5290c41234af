package compile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// others are values for fields that another letter, or one more, says nothing new
// of.
var others = map[string]string{
	"ociVersion":                                        `"2.0.0"`,
	"linux.resources.cpu.shares":                        "900",
	"process.scheduler.priority":                        "1",
	"linux.resources.memory.useHierarchy":               "false",
	"linux.resources.memory.disableOOMKiller":           "true",
	"linux.resources.devices[].type":                    `"b"`,
	"linux.resources.devices[].access":                  `"w"`,
	"linux.resources.blockIO.weightDevice[].weight":     "300",
	"linux.resources.cpu.cpus":                          `"1"`,
	"linux.resources.cpu.mems":                          `"1"`,
	"linux.seccomp.syscalls[].names[]":                  `"getpid"`,
	"linux.seccomp.architectures[]":                     `"SCMP_ARCH_X86"`,
	"mounts[].options[]":                                `"nosuid"`,
	"linux.namespaces[].path":                           `"/ns/other"`,
	"linux.devices[].major":                             "2",
	"annotations{}":                                     `"uint64 2"`,
	"linux.resources.unified{}":                         `"8192"`,
	"linux.resources.cpu.idle":                          "1",
	"linux.seccomp.syscalls[].args[].index":             "1",
	"linux.resources.hugepageLimits[].pageSize":         `"1GB"`,
	"linux.personality.domain":                          `"LINUX"`,
	"process.capabilities.bounding[]":                   `"CAP_CHOWN"`,
	"process.capabilities.effective[]":                  `"CAP_CHOWN"`,
	"process.capabilities.inheritable[]":                `"CAP_CHOWN"`,
	"process.capabilities.permitted[]":                  `"CAP_CHOWN"`,
	"process.capabilities.ambient[]":                    `"CAP_CHOWN"`,
	"linux.resources.blockIO.weight":                    "300",
	"linux.resources.memory.checkBeforeUpdate":          "false",
	"linux.memoryPolicy.nodes":                          `"1"`,
	"process.execCPUAffinity.initial":                   `"2"`,
	"process.execCPUAffinity.final":                     `"2"`,
	"linux.seccomp.listenerMetadata":                    `"other"`,
	"linux.resources.network.classID":                   "1",
	"linux.resources.network.priorities[].name":         `"eth0"`,
	"linux.resources.network.priorities[].priority":     "1",
	"linux.resources.memory.kernel":                     "1",
	"linux.resources.memory.kernelTCP":                  "1",
	"linux.resources.memory.swappiness":                 "1",
	"linux.resources.cpu.realtimeRuntime":               "1",
	"linux.resources.cpu.realtimePeriod":                "1",
	"linux.resources.blockIO.leafWeight":                "300",
	"linux.resources.blockIO.weightDevice[].leafWeight": "300",
}

// leaf is a field of the spec that holds a value of its own.
type leaf struct {
	path string // "mounts[].options[]", "linux.sysctl{}"
	walk []int  // numbers of the fields that lead there
}

// leaves are those of the spec for Linux, and the sections of other platforms.
func leaves(path string, walk []int, t reflect.Type, f func(leaf)) {
	switch t.Kind() {
	case reflect.Pointer:
		leaves(path, walk, t.Elem(), f)
	case reflect.Slice:
		leaves(path+"[]", walk, t.Elem(), f)
	case reflect.Map:
		leaves(path+"{}", walk, t.Elem(), f)
	case reflect.Struct:
		for i := range t.NumField() {
			sf := t.Field(i)
			here := append(walk[:len(walk):len(walk)], i)
			if sf.Anonymous {
				leaves(path, here, sf.Type, f)
				continue
			}
			name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
			to := strings.TrimPrefix(path+"."+name, ".")
			if on := sf.Tag.Get("platform"); on != "" && !strings.Contains(on, "linux") {
				f(leaf{to, here})
				continue
			}
			leaves(to, here, sf.Type, f)
		}
	default:
		f(leaf{path, walk})
	}
}

// change sets a leaf to another value, and makes what leads there: of a list the
// last element, of an object the first.
func change(t *testing.T, v reflect.Value, l leaf, walk []int) {
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			p.Elem().Set(v.Elem())
		}
		change(t, p.Elem(), l, walk)
		v.Set(p)
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		at := v.Len() - 1
		if l.path == "mounts[].type" {
			at = 0 // a bind mount is one whatever its type, if so its options say
		}
		change(t, v.Index(at), l, walk)
	case reflect.Map:
		key := reflect.ValueOf("key").Convert(v.Type().Key())
		if v.Len() > 0 {
			key = v.MapKeys()[0]
		} else {
			v.Set(reflect.MakeMap(v.Type()))
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		if old := v.MapIndex(key); old.IsValid() {
			elem.Set(old)
		}
		change(t, elem, l, walk)
		v.SetMapIndex(key, elem)
	case reflect.Struct:
		if len(walk) == 0 { // of another platform
			return
		}
		change(t, v.Field(walk[0]), l, walk[1:])
	default:
		text, ok := others[l.path]
		switch {
		case ok:
			if err := json.Unmarshal([]byte(text), v.Addr().Interface()); err != nil {
				t.Fatalf("%s: %v", l.path, err)
			}
		case v.Kind() == reflect.String:
			v.SetString(v.String() + "x")
		case v.Kind() == reflect.Bool:
			v.SetBool(!v.Bool())
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		default:
			v.SetUint(v.Uint() + 1)
		}
	}
}

// outcome is all that comes of a spec here.
func outcome(spec *specs.Spec) (string, error) {
	dir, scope, err := Cgroup("c1", spec, false)
	if err != nil {
		return "", err
	}
	opt := Options{ID: "c1", Bundle: "/bundle", Cgroup: dir, Home: "/root", SELinux: true}
	plan, err := Container(spec, opt)
	if err != nil {
		return "", err
	}
	plan.Scope = scope
	proc := *spec.Process
	exec, err := Exec(spec, &proc, opt)
	if err != nil {
		return "", err
	}
	image, err := plan.Encode()
	if err != nil {
		return "", err
	}
	hooks := ""
	if h := spec.Hooks; h != nil {
		for i := range h.CreateContainer {
			p, err := CreateContainerHook(spec, &h.CreateContainer[i])
			if err != nil {
				return "", err
			}
			hooks += p.String()
		}
		for i := range h.StartContainer {
			p, err := StartContainerHook(spec, &h.StartContainer[i], opt)
			if err != nil {
				return "", err
			}
			hooks += p.String()
		}
	}
	limits, err := json.Marshal(plan.Cgroup)
	return plan.String() + string(limits) + string(image) + exec.String() + hooks, err
}

var subscript = regexp.MustCompile(`\[[^\]]*\]`)

// names tells whether an error begins with a field, or with what it is part of.
func names(err error, path string) bool {
	said, _, _ := strings.Cut(err.Error(), ": ")
	bare := func(s string) string {
		return strings.NewReplacer("[]", "", "{}", "").Replace(subscript.ReplaceAllString(s, ""))
	}
	said, path = bare(said), bare(path)
	// An error of a value may come from its neighbour in the same object.
	parent := path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		parent = path[:i]
	}
	return said == path || said == parent || strings.HasPrefix(said, parent+".") || strings.HasPrefix(path, said+".")
}

// TestWholeSpec: each field of runtime-spec changes what is done, or is refused by its name, and docs/spec.md
// tells which, and what else makes use of it. None is passed over.
func TestWholeSpec(t *testing.T) {
	data, err := os.ReadFile("testdata/whole.json")
	if err != nil {
		t.Fatal(err)
	}
	whole := func() *specs.Spec {
		var s specs.Spec
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		return &s
	}
	plain, err := outcome(whole())
	if err != nil {
		t.Fatalf("testdata/whole.json: %v", err)
	}
	if again, err := outcome(whole()); err != nil || again != plain {
		t.Fatalf("the same spec gives something else: %v", err)
	}
	told := readTable(t)
	leaves("", nil, reflect.TypeFor[specs.Spec](), func(l leaf) {
		row := told.of(l.path)
		if row == nil {
			t.Errorf("%s: not in docs/spec.md", l.path)
			return
		}
		s := whole()
		change(t, reflect.ValueOf(s).Elem(), l, l.walk)
		got, err := outcome(s)
		if err != nil && !names(err, l.path) {
			t.Errorf("%s: refused without its name: %v", l.path, err)
		}
		if refused := errdefs.IsNotImplemented(err); refused != row.refused {
			t.Errorf("%s: docs/spec.md says refused %t, but: %v", l.path, row.refused, err)
		}
		if err == nil && got == plain && !row.elsewhere {
			t.Errorf("%s: changes nothing, and docs/spec.md names nobody else who reads it", l.path)
		}
		if err == nil && got != plain && row.elsewhere {
			t.Errorf("%s: docs/spec.md says that it is read elsewhere; it is read here", l.path)
		}
	})
	for name, row := range told.rows {
		if !row.used {
			t.Errorf("docs/spec.md: %s is no field of runtime-spec %s", name, specs.Version)
		}
	}
}

// table is docs/spec.md.
type table struct{ rows map[string]*row }

type row struct {
	refused   bool // "refused"
	elsewhere bool // read by somebody else than compile: "elsewhere"
	used      bool
}

// of finds a field, or one of those that it is part of, for all that is in it.
func (t *table) of(path string) *row {
	for name := path; ; {
		if r := t.rows[name]; r != nil {
			r.used = true
			return r
		}
		i := strings.LastIndexAny(name, ".[{")
		if i < 0 {
			return nil
		}
		name = name[:i]
	}
}

var (
	quoted   = regexp.MustCompile("`([^`]+)`")
	testName = regexp.MustCompile(`\bTest[A-Z]\w*`)
)

// readTable reads the rows of docs/spec.md: fields, what is done, tests. Each test
// it names must be there.
func readTable(t *testing.T) *table {
	const top = "../../.."
	text, err := os.ReadFile(filepath.Join(top, "docs/spec.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	err = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != top:
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		src, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(src, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out := &table{rows: map[string]*row{}}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		r := row{refused: strings.HasPrefix(cells[1], "refused"), elsewhere: strings.HasPrefix(cells[1], "elsewhere")}
		found := testName.FindAllString(cells[2], -1)
		for _, name := range found {
			if !tests[name] {
				t.Errorf("docs/spec.md: %s: there is no such test", name)
			}
		}
		if len(found) == 0 && !r.refused && !strings.Contains(cells[2], ".md") {
			t.Errorf("docs/spec.md: %s: no test", cells[0])
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[0], -1) {
			if out.rows[m[1]] != nil {
				t.Errorf("docs/spec.md: %s: told twice", m[1])
			}
			one := r
			out.rows[m[1]] = &one
		}
	}
	if len(out.rows) == 0 {
		t.Fatal("docs/spec.md: no table")
	}
	return out
}
