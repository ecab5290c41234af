// Command testsummary reads what `go test -json` writes and says it shortly: a line for each package
// when it is done, the output of what failed, the skipped tests with their reasons, and as the last
// line, in exactly this form,
//
//	N passed, N failed, N skipped
//
// Tests that only hold subtests are not counted, their subtests are. A package that fails without a
// failed test, say because it does not build, is one failure, and so is one that does not end. The exit
// status is 1 if anything failed.
//
// Each argument NAME=STATUS counts as one more test, which has failed unless STATUS is 0.
//
// With -again COMMAND up to five tests that failed run once more, each by itself, by `COMMAND PACKAGE
// REGEXP`, which writes such a stream too. One that passes then counts as passed, and its name is in a
// list of its own: it is a fault, of the test or of what it tests, but not one of the change at hand. More
// than five are no accident. What failed as a package, and not as a test, has failed.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// event is what cmd/test2json documents.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

func main() {
	command := flag.String("again", "", "the `command` that runs a failed test once more")
	flag.Parse()
	s := summary{out: os.Stdout, tests: make(map[string]*test)}
	for _, arg := range flag.Args() {
		name, status, _ := strings.Cut(arg, "=")
		if status == "0" {
			s.passed++
		} else {
			s.failed = append(s.failed, failure{name: name})
		}
	}
	if err := s.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(1)
	}
	s.unfinished()
	if *command != "" {
		s.again(func(pkg, regexp string) (io.Reader, error) {
			cmd := exec.Command(*command, pkg, regexp)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			return bytes.NewReader(out), err
		})
	}
	if !s.close() {
		os.Exit(1)
	}
}

// test is one test, or with an empty name the package as a whole.
type test struct {
	pkg, name string
	parent    bool // has subtests
	failed    bool // a subtest has failed
	output    []string
}

// failure is of a test; without a test, of a package or of something else.
type failure struct{ name, pkg, test string }

type summary struct {
	out      io.Writer
	tests    map[string]*test // by package and name, those that run
	passed   int
	failed   []failure
	unsteady []string
	skipped  []string
	builds   []string // what the compiler said
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(s.out, lines.Text()) // go itself, complaining in plain words
			continue
		}
		s.event(&e)
	}
	return lines.Err()
}

func (s *summary) event(e *event) {
	t := s.tests[e.Package+" "+e.Test]
	if t == nil {
		t = &test{pkg: e.Package, name: e.Test}
		s.tests[e.Package+" "+e.Test] = t
		if i := strings.LastIndex(e.Test, "/"); i >= 0 {
			if parent := s.tests[e.Package+" "+e.Test[:i]]; parent != nil {
				parent.parent = true
			}
		}
	}
	switch e.Action {
	case "output":
		t.output = append(t.output, e.Output)
	case "build-output":
		s.builds = append(s.builds, e.Output)
	case "pass", "fail", "skip":
		s.finish(t, e)
	}
}

// finish counts a test that is over, or a package.
func (s *summary) finish(t *test, e *event) {
	delete(s.tests, e.Package+" "+e.Test)
	if e.Test == "" {
		s.finishPackage(t, e)
		return
	}
	name := t.pkg + " " + t.name
	switch {
	case e.Action == "fail":
		s.fail(t)
		if t.failed && len(t.output) <= 2 {
			return // a parent says nothing new when a subtest of it has failed
		}
		if !t.failed {
			s.failed = append(s.failed, failure{name, t.pkg, t.name})
		}
		fmt.Fprintf(s.out, "\n--- FAIL: %s\n%s\n", name, strings.Join(t.output, ""))
	case e.Action == "skip":
		s.skipped = append(s.skipped, name+": "+reason(t.output))
	case !t.parent:
		s.passed++
	}
}

// fail tells the tests around t.
func (s *summary) fail(t *test) {
	for name := t.name; ; {
		i := strings.LastIndex(name, "/")
		if i < 0 {
			break
		}
		name = name[:i]
		if parent := s.tests[t.pkg+" "+name]; parent != nil {
			parent.failed = true
		}
	}
	if whole := s.tests[t.pkg+" "]; whole != nil {
		whole.failed = true
	}
}

func (s *summary) finishPackage(t *test, e *event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(s.out, "ok      %s  %.1fs\n", e.Package, e.Elapsed)
	case "fail":
		// What still ran when the package died, of a panic or of its time limit.
		for key, open := range s.tests {
			if open.pkg == e.Package && open.name != "" {
				delete(s.tests, key)
				if !open.parent {
					t.failed = true
					s.failed = append(s.failed, failure{open.pkg + " " + open.name, open.pkg, open.name})
					fmt.Fprintf(s.out, "\n--- UNFINISHED: %s %s\n%s\n", open.pkg, open.name, strings.Join(open.output, ""))
				}
			}
		}
		if !t.failed {
			s.failed = append(s.failed, failure{name: e.Package})
			fmt.Fprint(s.out, strings.Join(s.builds, ""))
			s.builds = nil
		}
		fmt.Fprintf(s.out, "%sFAIL    %s  %.1fs\n", strings.Join(t.output, ""), e.Package, e.Elapsed)
	}
}

// reason is what a test said last before it skipped.
func reason(output []string) string {
	for i := len(output) - 1; i >= 0; i-- {
		line := strings.TrimSpace(output[i])
		if line == "" || strings.HasPrefix(line, "---") || strings.HasPrefix(line, "===") {
			continue
		}
		if _, after, found := strings.Cut(line, "] skip "); found { // a script: > [condition] skip 'reason'
			return strings.Trim(after, "'")
		}
		if _, after, found := strings.Cut(line, ".go:"); found { // file.go:12: reason
			if _, after, found = strings.Cut(after, ": "); found {
				line = after
			}
		}
		return line
	}
	return "no reason given"
}

// unfinished fails the packages whose end is not in the stream: what ran them has died.
func (s *summary) unfinished() {
	var open []string
	for _, t := range s.tests {
		if t.pkg != "" && !slices.Contains(open, t.pkg) {
			open = append(open, t.pkg)
		}
	}
	slices.Sort(open)
	for _, pkg := range open {
		whole := s.tests[pkg+" "]
		if whole == nil {
			whole = &test{pkg: pkg}
		}
		delete(s.tests, pkg+" ")
		s.finishPackage(whole, &event{Action: "fail", Package: pkg})
	}
}

// again runs each failed test by itself.
func (s *summary) again(run func(pkg, regexp string) (io.Reader, error)) {
	if len(s.failed) > 5 {
		return
	}
	s.failed = slices.DeleteFunc(s.failed, func(f failure) bool {
		if f.test == "" {
			return false
		}
		parts := strings.Split(f.test, "/")
		for i, part := range parts {
			parts[i] = "^" + regexp.QuoteMeta(part) + "$"
		}
		fmt.Fprintf(s.out, "\nonce more, by itself: %s\n", f.name)
		second := summary{out: s.out, tests: make(map[string]*test)}
		r, err := run(f.pkg, strings.Join(parts, "/"))
		if err == nil {
			err = second.read(r)
		}
		second.unfinished()
		if err != nil || second.passed == 0 || len(second.failed) > 0 {
			return false
		}
		s.passed++
		s.unsteady = append(s.unsteady, f.name)
		return true
	})
}

// close prints the end and tells whether all is well.
func (s *summary) close() bool {
	if len(s.skipped) > 0 {
		fmt.Fprintf(s.out, "\nskipped:\n")
		for _, name := range s.skipped {
			fmt.Fprintf(s.out, "  %s\n", name)
		}
	}
	if len(s.unsteady) > 0 {
		fmt.Fprintf(s.out, "\nunsteady, failed at first and passed by itself:\n")
		for _, name := range s.unsteady {
			fmt.Fprintf(s.out, "  %s\n", name)
		}
	}
	if len(s.failed) > 0 {
		fmt.Fprintf(s.out, "\nfailed:\n")
		for _, f := range s.failed {
			fmt.Fprintf(s.out, "  %s\n", f.name)
		}
	}
	if s.passed+len(s.failed)+len(s.skipped) == 0 {
		s.failed = append(s.failed, failure{name: "no test has run"})
		fmt.Fprintln(s.out, "no test has run")
	}
	fmt.Fprintf(s.out, "\n%d passed, %d failed, %d skipped\n", s.passed, len(s.failed), len(s.skipped))
	return len(s.failed) == 0
}
