package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// config is the command line.
type config struct {
	dir, outside     string
	tools, archive   string
	mini, runc, crun string
	nothing, floor   string
	also             []contender
	miniSnapshotter  string
	alsoSnapshotter  []contender

	parts    []string
	n        int
	warmup   int
	rounds   int
	parallel int
	widths   []int
	idle     int
	pod      int
	many     int
	group    int
	stream   int
	settle   time.Duration
	quiet    time.Duration
	markdown bool
	json     string
	plot     string
	sizes    []int
}

// parts are what can be measured, in the order in which it is.
var parts = []string{
	"floor", "shim", "life", "exec", "parallel", "tail", "stream", "memory", "pod", "group", "flat", "layer", "unpack", "snapshot",
}

func parse() (*config, error) {
	c := &config{parts: parts}
	flag.StringVar(&c.dir, "dir", "", "`directory` of the run, removed at its end; its last element names the cgroup")
	flag.StringVar(&c.outside, "outside", "", "mount `namespace` of the machine, which we must not be in")
	flag.StringVar(&c.tools, "tools", "", "`directory` of containerd and containerd-shim-runc-v2")
	flag.StringVar(&c.archive, "image", "", "`archive` of mini.test/busybox")
	flag.StringVar(&c.mini, "mini", "", "`path` of containerd-shim-mini-v2")
	flag.StringVar(&c.runc, "runc", "", "`path` of runc; \"\" leaves it out")
	flag.StringVar(&c.crun, "crun", "", "`path` of crun; \"\" leaves it out")
	flag.StringVar(&c.nothing, "nothing", "", "`path` of the shim that makes no container; \"\" leaves it out")
	flag.StringVar(&c.floor, "floor", "", "`path` of the program floor/floor.c")
	flag.StringVar(&c.miniSnapshotter, "snapshotter", "", "`path` of mini-snapshotter, for the snapshot part")
	more := func(to *[]contender) func(string) error {
		return func(s string) error {
			name, path, ok := strings.Cut(s, "=")
			if !ok || strings.ContainsAny(name, "./ ") {
				return fmt.Errorf("%q: want name=path", s)
			}
			*to = append(*to, contender{name: name, shim: path})
			return nil
		}
	}
	flag.Func("also", "one more shim of mini: `name=path`; may be repeated", more(&c.also))
	flag.Func("also-snapshotter", "one more mini-snapshotter: `name=path`; may be repeated", more(&c.alsoSnapshotter))
	c.sizes, c.widths = []int{1, 1000, 10000}, []int{1, 10, 50}
	numbers := func(to *[]int) func(string) error {
		return func(s string) error {
			*to = nil
			for _, word := range strings.Split(s, ",") {
				n, err := strconv.Atoi(word)
				if err != nil || n < 1 {
					return fmt.Errorf("%q: want numbers above 0", s)
				}
				*to = append(*to, n)
			}
			return nil
		}
	}
	flag.Func("sizes", "`list` of numbers of snapshots beside those that are measured, rising", numbers(&c.sizes))
	flag.Func("widths", "`list` of how many containers at a time, of the parallel part", numbers(&c.widths))
	flag.Func("parts", "`list` of what to measure: "+strings.Join(parts, ","), func(s string) error {
		c.parts = strings.Split(s, ",")
		for _, part := range c.parts {
			if !slices.Contains(parts, part) {
				return fmt.Errorf("%q: want some of %s", part, strings.Join(parts, ","))
			}
		}
		return nil
	})
	flag.IntVar(&c.n, "n", 50, "containers, and execs, per contender")
	flag.IntVar(&c.warmup, "warmup", 3, "rounds before those that count")
	flag.IntVar(&c.rounds, "rounds", 3, "repetitions of the parallel, tail, stream, memory and pod parts")
	flag.IntVar(&c.parallel, "parallel", 100, "containers of the parallel part")
	flag.IntVar(&c.idle, "idle", 50, "idle containers of the memory part")
	flag.IntVar(&c.pod, "pod", 10, "containers of a pod, beside its first")
	flag.IntVar(&c.group, "group", 500, "containers that share a shim, of the group part")
	flag.IntVar(&c.many, "many", 1000, "most containers that run, of the flat part")
	flag.IntVar(&c.stream, "stream", 4096, "`MiB` that a container writes, in the stream part")
	flag.DurationVar(&c.settle, "settle", 3*time.Second, "wait so long before memory is read")
	flag.DurationVar(&c.quiet, "quiet", time.Minute, "wait so long for a quiet machine")
	flag.BoolVar(&c.markdown, "markdown", false, "print Markdown")
	flag.StringVar(&c.json, "json", "", "`file` to write all values to as well")
	flag.StringVar(&c.plot, "plot", "", "`file` to draw the curves of the flat part in, as SVG")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return nil, fmt.Errorf("%q: unexpected", flag.Arg(0))
	case c.dir == "" || c.tools == "" || c.archive == "" || c.mini == "":
		return nil, fmt.Errorf("-dir, -tools, -image and -mini are needed: start hack/bench/run")
	case c.n < 1 || c.warmup < 0 || c.rounds < 1 || c.parallel < 1 || c.many < 10 || c.stream < 8 || c.idle < 1 || c.pod < 1 || c.group < 1:
		return nil, fmt.Errorf("a count below 1")
	}
	return c, nil
}

// contenders are what is compared, mini first.
func (c *config) contenders() []contender {
	all := append([]contender{{name: "mini", shim: c.mini}}, c.also...)
	for _, peer := range []struct{ name, path string }{{"runc", c.runc}, {"crun", c.crun}} {
		if peer.path != "" {
			all = append(all, contender{name: peer.name, shim: c.tools + "/containerd-shim-runc-v2", binary: peer.path})
		}
	}
	if c.nothing != "" {
		all = append(all, contender{name: "nothing", shim: c.nothing, hollow: true})
	}
	return all
}

const roleEnv = "MINI_BENCH_ROLE"

func main() {
	c, err := parse()
	code := 0
	if err == nil {
		switch os.Getenv(roleEnv) {
		case "":
			code, err = keep(c)
		case "init":
			code, err = reap()
		case builtin:
			err = serveOverlay()
		case hollowName:
			err = serveSnapshots(hollow{})
		default:
			err = bench(c)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// bench measures the parts and prints the table.
func bench(c *config) error {
	waitQuiet(c.quiet)
	m := facts(c)
	d, err := start(c)
	if err != nil {
		return err
	}
	r := &run{daemon: d, all: c.contenders()}
	unequal, err := r.probe()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, d.logTail())
	}
	m = append(m, unequal...)
	for i, part := range c.parts {
		begun := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s (%d of %d)", part, i+1, len(c.parts))
		err := r.measure(part)
		fmt.Fprintf(os.Stderr, ", %s\n", time.Since(begun).Round(time.Second))
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", part, err, d.logTail())
		}
	}
	m = append(m, fact{"load average after", loadAverage().String()})
	r.table.print(os.Stdout, m, names(r.all), c.markdown)
	if c.json != "" {
		err = r.table.writeJSON(c.json, m)
	}
	if c.plot != "" {
		err = errors.Join(err, r.table.writePlot(c.plot))
	}
	return err
}

func (r *run) measure(part string) error {
	switch part {
	case "floor":
		return r.measureFloor()
	case "tail":
		return r.measureTail()
	case "stream":
		return r.measureStreams()
	case "flat":
		return r.measureFlat()
	case "shim":
		return r.measureShims()
	case "life":
		return r.measureLives()
	case "exec":
		return r.measureExecs()
	case "parallel":
		return r.measureParallel()
	case "memory":
		return r.measureMemory()
	case "group":
		return r.measureGroup()
	case "layer":
		return r.onStage((*stage).measureBig)
	case "unpack":
		return r.onStage((*stage).measureUnpack)
	case "snapshot":
		return r.onStage((*stage).measureSnapshots)
	default:
		return r.measurePods()
	}
}

// waitQuiet waits until nobody else has work for this machine, and says so if somebody has.
func waitQuiet(patience time.Duration) {
	limit := 0.5 * float64(runtime.NumCPU())
	load := loadAverage()
	fmt.Fprintf(os.Stderr, "bench: load average %s on %d cores\n", load, runtime.NumCPU())
	if load[0] > limit && patience > 0 {
		fmt.Fprintf(os.Stderr, "bench: waiting up to %s for one below %.1f\n", patience, limit)
	}
	for end := time.Now().Add(patience); load[0] > limit && time.Now().Before(end); load = loadAverage() {
		time.Sleep(time.Second)
	}
	if load[0] > limit {
		fmt.Fprintf(os.Stderr, "bench: WARNING: load average %s: this machine is busy, expect noise\n", load)
	}
}
