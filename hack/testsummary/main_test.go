package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	for _, c := range []struct{ name, events, want string }{
		{
			"parents are not counted",
			`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"run","Package":"p","Test":"T/a"}
{"Action":"pass","Package":"p","Test":"T/a"}
{"Action":"run","Package":"p","Test":"T/b"}
{"Action":"output","Package":"p","Test":"T/b","Output":"    x_test.go:3: needs root\n"}
{"Action":"output","Package":"p","Test":"T/b","Output":"--- SKIP: T/b (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"T/b"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"pass","Package":"p"}`,
			"p T/b: needs root\n\n1 passed, 0 failed, 1 skipped\n",
		},
		{
			"a failure inside is one failure",
			`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"run","Package":"p","Test":"T/a"}
{"Action":"fail","Package":"p","Test":"T/a"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"fail","Package":"p"}`,
			"failed:\n  p T/a\n\n0 passed, 1 failed, 0 skipped\n",
		},
		{
			"a panic leaves tests unfinished",
			`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"output","Package":"p","Test":"T","Output":"panic: oh\n"}
{"Action":"fail","Package":"p"}`,
			"failed:\n  p T\n\n0 passed, 1 failed, 0 skipped\n",
		},
		{
			"a package does not build",
			`{"ImportPath":"p","Action":"build-output","Output":"p.go:1: no\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			"failed:\n  p\n\n0 passed, 1 failed, 0 skipped\n",
		},
		{
			"the stream ends early",
			`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"run","Package":"p","Test":"U"}`,
			"failed:\n  p U\n\n1 passed, 1 failed, 0 skipped\n",
		},
		{
			"the stream ends between two tests",
			`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"pass","Package":"p","Test":"T"}`,
			"failed:\n  p\n\n1 passed, 1 failed, 0 skipped\n",
		},
		{
			"a machine dies, another one lacks something",
			`{"Action":"fail","Package":"guest"}
{"Action":"run","Package":"other","Test":"all"}
{"Action":"output","Package":"other","Test":"all","Output":"no root\n"}
{"Action":"skip","Package":"other","Test":"all"}`,
			"skipped:\n  other all: no root\n\nfailed:\n  guest\n\n0 passed, 1 failed, 1 skipped\n",
		},
		{
			"one name in two places",
			`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"pass","Package":"p"}
{"Action":"start","Package":"guest/p"}
{"Action":"run","Package":"guest/p","Test":"T"}
{"Action":"fail","Package":"guest/p","Test":"T"}
{"Action":"fail","Package":"guest/p"}`,
			"failed:\n  guest/p T\n\n1 passed, 1 failed, 0 skipped\n",
		},
		{"nothing", "", "no test has run\n\n0 passed, 1 failed, 0 skipped\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			s := summary{out: &out, tests: make(map[string]*test)}
			if err := s.read(strings.NewReader(c.events)); err != nil {
				t.Fatal(err)
			}
			s.unfinished()
			if ok := s.close(); ok != strings.HasSuffix(c.want, "0 failed, 1 skipped\n") {
				t.Errorf("close says %t", ok)
			}
			if !strings.HasSuffix(out.String(), c.want) {
				t.Errorf("got\n%s\nwant at its end\n%s", out.String(), c.want)
			}
		})
	}
}

func TestAgain(t *testing.T) {
	const events = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"run","Package":"p","Test":"T/a (b)"}
{"Action":"fail","Package":"p","Test":"T/a (b)"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"run","Package":"p","Test":"U"}
{"Action":"fail","Package":"p","Test":"U"}
{"Action":"run","Package":"p","Test":"V"}
{"Action":"fail","Package":"p","Test":"V"}
{"Action":"fail","Package":"p"}
{"Action":"fail","Package":"q"}`
	var out strings.Builder
	s := summary{out: &out, tests: make(map[string]*test)}
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	s.again(func(pkg, regexp string) (io.Reader, error) {
		switch pkg + " " + regexp {
		case `p ^T$/^a \(b\)$`:
			return strings.NewReader(`{"Action":"run","Package":"p","Test":"T"}
{"Action":"run","Package":"p","Test":"T/a (b)"}
{"Action":"pass","Package":"p","Test":"T/a (b)"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"pass","Package":"p"}`), nil
		case `p ^U$`: // no test has this name
			return strings.NewReader(`{"Action":"pass","Package":"p"}`), nil
		case `p ^V$`:
			return strings.NewReader(`{"Action":"run","Package":"p","Test":"V"}`), errors.New("exit status 1")
		}
		t.Errorf("runs %s %s", pkg, regexp)
		return nil, io.ErrUnexpectedEOF
	})
	const want = "by itself:\n  p T/a (b)\n\nfailed:\n  p U\n  p V\n  q\n\n1 passed, 3 failed, 0 skipped\n"
	if s.close() || !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s\nwant at its end\n%s", out.String(), want)
	}
}
