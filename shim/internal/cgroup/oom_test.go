package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// TestOOMJudge goes through what memory.events may show, one look after the
// other.
func TestOOMJudge(t *testing.T) {
	type look struct {
		after      time.Duration
		oom, kills uint64
	}
	for _, c := range []struct {
		name  string
		looks []look
		want  OOMKills
	}{
		{"own", []look{{0, 1, 1}}, OOMKills{Own: 1}},
		{"own, seen before its kill", []look{{0, 1, 0}, {time.Second, 1, 1}}, OOMKills{Own: 1}},
		{"own, of a group", []look{{0, 1, 5}}, OOMKills{Own: 5}},
		{"own, twice", []look{{0, 1, 1}, {0, 2, 2}}, OOMKills{Own: 2}},
		{"ancestor", []look{{0, 0, 1}}, OOMKills{Others: 1}},
		{"ancestor after own", []look{{0, 1, 1}, {0, 1, 2}}, OOMKills{Own: 1, Others: 1}},
		{"own after ancestor", []look{{0, 0, 1}, {0, 1, 2}}, OOMKills{Own: 1, Others: 1}},
		{"own without a kill", []look{{0, 7, 0}}, OOMKills{}},
		{"ancestor long after own without a kill", []look{{0, 7, 0}, {time.Hour, 7, 1}}, OOMKills{Others: 1}},
		{"two threads at the limit", []look{{0, 2, 1}, {time.Hour, 2, 2}}, OOMKills{Own: 1, Others: 1}},
		{"nothing new", []look{{0, 1, 1}, {0, 1, 1}}, OOMKills{Own: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var j oomJudge
			now := time.Now()
			for _, l := range c.looks {
				now = now.Add(l.after)
				j.see(oomCounts{l.oom, l.kills}, now)
			}
			if j.said != c.want {
				t.Errorf("%+v, want %+v", j.said, c.want)
			}
		})
	}
}

// TestOOMGone: a cgroup that is removed between two looks takes nothing back of
// what was seen.
func TestOOMGone(t *testing.T) {
	looks := []oomCounts{{1, 0}, {1, 1}, {0, 0}, {0, 0}}
	var j oomJudge
	for range 3 {
		_, err := j.count(func() (oomCounts, error) {
			c := looks[0]
			looks = looks[1:]
			return c, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := (OOMKills{Own: 1}); j.said != want || len(looks) != 0 {
		t.Errorf("%+v, want %+v; looks left: %d", j.said, want, len(looks))
	}
}

// TestOOMGoneAtEnd: of a cgroup that went with the last process the kill may not have
// been seen, but what led to it.
func TestOOMGoneAtEnd(t *testing.T) {
	for _, c := range []struct {
		name    string
		look    oomCounts
		changed time.Duration
		want    OOMKills
	}{
		{"an oom was seen", oomCounts{1, 0}, 0, OOMKills{Own: 1}},
		{"and its kill", oomCounts{1, 1}, 0, OOMKills{Own: 1}},
		{"that was long ago", oomCounts{1, 0}, time.Hour, OOMKills{}},
		{"none was seen", oomCounts{}, 0, OOMKills{}},
	} {
		var j oomJudge
		if _, err := j.count(func() (oomCounts, error) { return c.look, nil }); err != nil {
			t.Fatal(err)
		}
		j.changed = j.changed.Add(-c.changed)
		for range 2 { // once is enough
			if got := j.end(); got != c.want {
				t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
			}
		}
	}
}

// TestLoggedOOM reads records of the kernel's log.
func TestLoggedOOM(t *testing.T) {
	const line = "6,1189,98765432,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/s.slice/a.scope,task_memcg=/s.slice/a.scope,task=dd,pid=7,uid=0\n SUBSYSTEM=x\n"
	own, others, none := OOMKills{Own: 1}, OOMKills{Others: 1}, OOMKills{}
	for _, c := range []struct {
		what, record string
		want         OOMKills
	}{
		{"its own limit", line, own},
		{"its slice's", strings.Replace(line, "oom_memcg=/s.slice/a.scope", "oom_memcg=/s.slice", 1), others},
		{"the machine's", strings.Replace(line, "oom_memcg=/s.slice/a.scope", "global_oom", 1), others},
		{"another process", strings.Replace(line, "pid=7,", "pid=77,", 1), none},
		{"another cgroup", strings.Replace(line, "task_memcg=/s.slice/a.scope", "task_memcg=/s.slice/a.scope/b", 1), none},
		{"what a process says", "1" + line, none},
		{"a name that looks like it", strings.Replace(line, "oom-kill:", "x oom-kill:", 1), none},
		{"a cgroup with a name that looks like it", strings.Replace(line, ",oom_memcg=", ",oom_memcg=/b/,task_memcg=", 1), none},
		{"something else", "6,1,2,-;hello", none},
		{"nothing", "", none},
	} {
		if got, ok := oomOf(c.record, 7, "/s.slice/a.scope"); got != c.want || ok != (c.want != none) {
			t.Errorf("%s: %+v, %t", c.what, got, ok)
		}
	}
}

// newLimited makes a cgroup that may use some memory, and no swap; 0 is no limit.
func newLimited(t *testing.T, limit int, elem ...string) *Group {
	t.Helper()
	needRoot(t)
	g, err := Create(testRoot, testPath(t, elem...), []string{"memory"})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, g)
	var w []program.Write
	if limit != 0 {
		w = append(w, program.Write{Controller: "memory", File: "memory.max", Value: strconv.Itoa(limit)})
	}
	err = g.Apply(program.Resources{Writes: append(w, program.Write{Controller: "memory", File: "memory.oom.group", Value: "0"})})
	var missing *MissingControllerError
	if errors.As(err, &missing) {
		t.Skipf("%s: no memory controller in cgroup v2 on this machine", t.Name())
	}
	if err != nil {
		t.Fatal(err)
	}
	// Without swap in the kernel or the machine there is nothing to forbid.
	_ = g.write("memory.swap.max", "0")
	return g
}

// devour is born in g and takes 64 MiB. It tells whether it was killed.
func devour(t *testing.T, g *Group) bool {
	t.Helper()
	cmd := exec.Command("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD()}
	err := cmd.Run()
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Fatal(err)
	}
	return true
}

func wantOOM(t *testing.T, g *Group, want OOMKills) {
	t.Helper()
	if got, err := g.OOMKills(); err != nil || got != want {
		b, _ := g.read("memory.events", nil)
		t.Fatalf("%s: %+v, %v; want %+v\n%s", g.Path(), got, err, want, b)
	}
}

const oomLimit = 8 << 20

// TestOOMOfAll: who is killed for whose limit.
func TestOOMOfAll(t *testing.T) {
	t.Run("own", func(t *testing.T) {
		g := newLimited(t, oomLimit, "a")
		if !devour(t, g) {
			t.Fatal("not killed")
		}
		wantOOM(t, g, OOMKills{Own: 1})
	})
	t.Run("below", func(t *testing.T) {
		g := newLimited(t, 4*oomLimit, "a")
		child := newLimited(t, oomLimit, "a", "b")
		if !devour(t, child) {
			t.Fatal("not killed")
		}
		wantOOM(t, g, OOMKills{Own: 1})
		wantOOM(t, child, OOMKills{Own: 1})
	})
	t.Run("above", func(t *testing.T) {
		pod := newLimited(t, oomLimit, "pod")
		g := newLimited(t, 16*oomLimit, "pod", "a")
		free := newLimited(t, 0, "pod", "b")
		for i := range uint64(3) {
			if !devour(t, g) || !devour(t, free) {
				t.Fatal("not killed")
			}
			wantOOM(t, g, OOMKills{Others: i + 1})
			wantOOM(t, free, OOMKills{Others: i + 1})
			wantOOM(t, pod, OOMKills{Own: 2 * (i + 1)})
		}
		// And its own limit after that.
		if err := g.write("memory.max", strconv.Itoa(oomLimit/2)); err != nil {
			t.Fatal(err)
		}
		if !devour(t, g) {
			t.Fatal("not killed")
		}
		wantOOM(t, g, OOMKills{Own: 1, Others: 3})
	})
	t.Run("all of the cgroup", func(t *testing.T) {
		g := newLimited(t, oomLimit, "a")
		if err := g.write("memory.oom.group", "1"); err != nil {
			t.Fatal(err)
		}
		other := start(t, g, "sleep", "1000")
		if !devour(t, g) {
			t.Fatal("not killed")
		}
		if err := other.Wait(); err == nil {
			t.Error("the other process of the group lives")
		}
		// The kernel counts the one that it chose twice.
		if got, err := g.OOMKills(); err != nil || got.Own < 2 || got.Others != 0 {
			t.Errorf("%+v, %v; want own ones alone", got, err)
		}
	})
	t.Run("all, for the limit above", func(t *testing.T) {
		newLimited(t, oomLimit, "pod")
		g := newLimited(t, 0, "pod", "a")
		if err := g.write("memory.oom.group", "1"); err != nil {
			t.Fatal(err)
		}
		other := start(t, g, "sleep", "1000")
		if !devour(t, g) {
			t.Fatal("not killed")
		}
		if err := other.Wait(); err == nil {
			t.Error("the other process of the group lives")
		}
		if got, err := g.OOMKills(); err != nil || got.Others < 2 || got.Own != 0 {
			t.Errorf("%+v, %v; want those of others alone", got, err)
		}
	})
	t.Run("before it was ours", func(t *testing.T) {
		g := newLimited(t, oomLimit, "pod", "a")
		devour(t, g)
		if err := unix.Fremovexattr(g.FD(), mark); err != nil {
			t.Fatal(err)
		}
		again, err := Create(testRoot, g.Path(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		wantOOM(t, again, OOMKills{})
		devour(t, again)
		wantOOM(t, again, OOMKills{Own: 1})
	})
}

// TestOOMMany kills again and again: each kill is there when its process is
// reaped, and is told as what it is. MINI_TEST_OOM_KILLS is how often.
func TestOOMMany(t *testing.T) {
	times := 40
	if n, err := strconv.Atoi(os.Getenv("MINI_TEST_OOM_KILLS")); err == nil {
		times = n
	}
	pod := newLimited(t, 4*oomLimit, "pod")
	own := newLimited(t, oomLimit, "pod", "own")
	free := newLimited(t, 0, "pod", "free")
	for i := range uint64(times) {
		if !devour(t, own) {
			t.Fatal("not killed")
		}
		wantOOM(t, own, OOMKills{Own: i + 1})
		if i%4 == 0 {
			if !devour(t, free) {
				t.Fatal("not killed")
			}
			wantOOM(t, free, OOMKills{Others: i/4 + 1})
			wantOOM(t, own, OOMKills{Own: i + 1})
		}
	}
	wantOOM(t, pod, OOMKills{Own: uint64(times + (times+3)/4)})
}

func TestOOMWithoutController(t *testing.T) {
	g := newTestGroup(t) // asks for none
	wantOOM(t, g, OOMKills{})
	if err := g.OOMEvents(t.Context(), func(OOMKills) { t.Error("called") }); err != nil {
		t.Error(err)
	}
}
