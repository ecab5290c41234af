package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// TestScripts runs testdata/*.txtar under containerd 2.4, and those whose name begins with "smoke"
// under the older ones too. A script finds in its PATH
//
//	ctr ARG...               ctr in the containerd namespace of the script
//	run ARG...               ctr run with the runtime under test
//	status N COMMAND ARG...  succeeds if the command exits with N
//	feed FILE COMMAND ARG... the command with the file as stdin, which ends a second later
//	                         (MINI_TEST_FEED_SECONDS on a slow machine): ctr misses
//	                         an end of file that comes before the answer to Create
//	await PATTERN COMMAND... the command again and again, until its output has the pattern (90 s)
//
// has the commands of testscript, and beyond them
//
//	clean                    nothing may be left of the script's containers by now
//
// the conditions [mini], that mini is the runtime under test, and [controller:NAME],
// and the variables IMAGE, RUNTIME and NS, the containerd namespace, which is the parent cgroup too.
func TestScripts(t *testing.T) {
	for _, version := range []string{"2.4", "2.2", "1.7"} {
		t.Run("containerd-"+version, func(t *testing.T) {
			pattern := "testdata/*.txtar"
			if version != "2.4" {
				pattern = "testdata/smoke*.txtar"
			}
			runScripts(t, pattern, func(e *testscript.Env) error {
				d := daemon.Shared(e.T().(script).T, version)
				d.Import(daemon.Busybox)
				return setup(e, d)
			})
		})
	}
}

// script is the T of a script. Scripts run one after the other: the check for what they leave behind
// looks at the machine as a whole.
type script struct{ *testing.T }

func (script) Parallel() {}

func (s script) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(script{t}) })
}

func (s script) Verbose() bool { return testing.Verbose() }

type daemonKey struct{}

// runScripts runs those that are in the files of a pattern, each in the world that setup makes.
func runScripts(t *testing.T, pattern string, setup func(*testscript.Env) error) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	must(t, err)
	testscript.RunT(script{t}, testscript.Params{
		Files: files, Setup: setup, Condition: condition, Cmds: commands, RequireUniqueNames: true,
	})
}

var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"clean": func(ts *testscript.TestScript, _ bool, _ []string) {
		ts.Value(daemonKey{}).(*daemon.Daemon).AssertClean()
	},
}

func condition(name string) (bool, error) {
	controller, found := strings.CutPrefix(name, "controller:")
	switch {
	case found:
		return hasController(controller), nil
	case name == "mini":
		return mini(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// setup gives a script its namespace, variables and programs.
func setup(e *testscript.Env, d *daemon.Daemon) error {
	e.Values[daemonKey{}] = d
	e.Setenv("IMAGE", daemon.Busybox)
	e.Setenv("RUNTIME", daemon.Runtime())
	e.Setenv("NS", d.Namespace)
	e.Setenv("TMPDIR", os.TempDir())
	e.Setenv("MINI_TEST_FEED_SECONDS", os.Getenv("MINI_TEST_FEED_SECONDS"))
	bin := filepath.Join(e.WorkDir, ".bin")
	e.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return writePrograms(bin, d)
}

// writePrograms makes the programs that only scripts have.
func writePrograms(bin string, d *daemon.Daemon) error {
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	ctr := strings.Join(d.CtrCommand().Args, " ")
	run := ctr + " run --runtime " + daemon.Runtime()
	if !mini() && !hasController("cpu") {
		run += " --cpu-shares 0" // ctr asks for 1024, the default, when nothing is said; runc writes that, too
	}
	for name, text := range map[string]string{
		"ctr": `exec ` + ctr + ` "$@"`,
		"run": `exec ` + run + ` "$@"`,
		"status": `want=$1; shift
"$@" && got=0 || got=$?
[ $got = $want ] || { echo "exit status $got, want $want" >&2; exit 1; }`,
		"feed": `file=$1; shift
(cat "$file"; sleep ${MINI_TEST_FEED_SECONDS:-1}) | "$@"`,
		"await": `pattern=$1; shift
end=$(($(date +%s) + 90))
while [ $(date +%s) -lt $end ]; do
	out=$("$@" 2>&1) && printf '%s\n' "$out" | grep -E -- "$pattern" && exit
	sleep 0.1
done
printf 'no "%s" in 90 s, last:\n%s\n' "$pattern" "$out" >&2
exit 1`,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// hasController tells whether cgroup v2 has a controller to give here.
func hasController(name string) bool {
	data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && slices.Contains(strings.Fields(string(data)), name)
}
