package cgroup

import (
	"context"
	"sync"
	"time"
)

// OOMKills are the processes of a cgroup, and of those below it, that the
// kernel killed for want of memory, since [Create].
type OOMKills struct {
	// Own were killed for a limit of the cgroup, or of one below it.
	Own uint64
	// Others were killed for the limit of an ancestor, or because the
	// machine had no memory left: the choice fell on a process of ours.
	Others uint64
}

// oomCounts is what memory.events says of them (cgroup-v2.rst, "Memory
// Interface Files"), in the order in which the kernel counts: it increments
// oom where the limit is, and all the way up, and after that oom_kill where the
// victim is, and all the way up. So the kill by an ancestor's limit moves
// oom_kill here, and not oom.
type oomCounts struct{ oom, kills uint64 }

// killFollows is how long after an oom its kill may come. The kernel does both
// in one call (mem_cgroup_out_of_memory), under a lock that others may hold.
// An oom may also stay without a kill: there was none to kill, or the memory of
// the last victim was about to be freed.
const killFollows = 5 * time.Second

// oomJudge tells whose limits killed.
type oomJudge struct {
	mu      sync.Mutex
	said    OOMKills
	judged  oomCounts // oom and kills that are part of said
	last    uint64    // oom as it was seen last,
	changed time.Time // and when it was seen to grow
}

// see judges what was counted by now.
func (j *oomJudge) see(c oomCounts, now time.Time) {
	grown := c.oom > j.last
	if grown {
		j.last, j.changed = c.oom, now
	}
	if c.kills <= j.judged.kills {
		return
	}
	kills := c.kills - j.judged.kills
	// One oom may kill many, with memory.oom.group.
	if grown || c.oom > j.judged.oom && now.Sub(j.changed) < killFollows {
		j.said.Own += kills
	} else {
		j.said.Others += kills
	}
	j.judged = c
}

// OOMKills counts since Create; none where there is no memory controller.
func (g *Group) OOMKills() (OOMKills, error) { return g.oom.count(g.readOOM) }

// OOMKillsAtEnd counts when the first process has ended, pid where SIGKILL ended
// it, otherwise 0. systemd removes the cgroup of a scope as soon as it is empty, and
// what was counted with it: then the kernel's log knows, or what was seen before.
func (g *Group) OOMKillsAtEnd(pid int) (OOMKills, error) {
	said, err := g.OOMKills()
	if err != nil || pid == 0 || said != (OOMKills{}) {
		return said, err
	}
	if _, err := g.read("cgroup.events", nil); !gone(err) {
		return said, nil
	}
	if kills := loggedOOM(pid, g.path); kills != (OOMKills{}) {
		g.oom.mu.Lock()
		defer g.oom.mu.Unlock()
		g.oom.said = kills
		return kills, nil
	}
	return g.oom.end(), nil
}

// end judges an oom whose kill was not seen: if the cgroup reached its own limit a
// moment before, that was why.
func (j *oomJudge) end() OOMKills {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.last > j.judged.oom && time.Since(j.changed) < killFollows {
		j.said.Own++
		j.judged.oom = j.last
	}
	return j.said
}

func (j *oomJudge) count(read func() (oomCounts, error)) (OOMKills, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c, err := read()
	if err == nil && c.kills > j.judged.kills && c.oom == j.last {
		// The file is not read at one instant. The oom of a kill that
		// we see has been counted by now; or the cgroup is gone by now,
		// as systemd removes that of a scope, and counts no more.
		var again oomCounts
		again, err = read()
		c.oom = max(c.oom, again.oom)
	}
	if err != nil {
		return j.said, err
	}
	j.see(c, time.Now())
	return j.said, nil
}

// startOOM begins to count: a cgroup that others prepared has a history.
func (g *Group) startOOM() error {
	c, err := g.readOOM()
	if err != nil {
		return err
	}
	g.oom.judged, g.oom.last = c, c.oom
	return nil
}

// readOOM returns zeros where there is no memory controller.
func (g *Group) readOOM() (c oomCounts, err error) {
	// With the mount option memory_localevents memory.events leaves out the
	// cgroups below; without it it holds all that memory.events.local does.
	for _, name := range []string{"memory.events", "memory.events.local"} {
		b, err := g.read(name, nil)
		if gone(err) {
			continue
		}
		if err != nil {
			return c, g.err("read "+name, err)
		}
		eachPair(b, func(key string, v uint64) {
			switch key {
			case "oom":
				c.oom = max(c.oom, v)
			case "oom_kill":
				c.kills = max(c.kills, v)
			}
		})
	}
	return c, nil
}

// OOMEvents calls f each time that OOMKills has changed, beginning with none: a
// kill before the call is told too. It returns nil when ctx is done, or at
// once where there is no memory controller.
func (g *Group) OOMEvents(ctx context.Context, f func(OOMKills)) error {
	const name = "memory.events"
	w, err := g.watch(name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return g.err("watch "+name, err)
	}
	defer w.close()
	var last OOMKills
	for {
		if _, err := w.read(nil); gone(err) {
			return nil
		} else if err != nil {
			return g.err("read "+name, err)
		}
		now, err := g.OOMKills()
		if err != nil {
			return err
		}
		if now != last {
			last = now
			f(now)
		}
		if err := w.wait(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return g.err("watch "+name, err)
		}
	}
}
