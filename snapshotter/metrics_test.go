package snapshotter

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestMetricsAndLists(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("", "m")
	must(t, err)
	s := open(t, t.TempDir())
	client, end, err := remote(s, dir)
	must(t, err)
	defer func() { must(t, end()) }()
	layerOf(t, client, "base", "", "f", strings.Repeat("x", 8192))
	must(t, second(client.View(ctx, "look", "base")))
	_ = second(client.Stat(ctx, "none"))

	running, stop := context.WithCancel(ctx)
	defer stop()
	must(t, s.ServeMetrics(running, "unix:"+dir+"/m.sock"))
	h := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", dir+"/m.sock")
	}}}
	answer, err := h.Get("http://mini/metrics")
	must(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	for _, want := range []string{
		`mini_snapshotter_snapshots{kind="committed"} 1`, `mini_snapshotter_snapshots{kind="view"} 1`,
		`mini_snapshotter_request_seconds_count{code="OK",operation="Commit"} 1`,
		`mini_snapshotter_request_seconds_count{code="NotFound",operation="Stat"} 1`,
		`mini_snapshotter_committed_bytes 1`, `mini_snapshotter_trash_entries 0`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}

	var list, totals strings.Builder
	must(t, List(ctx, dir+"/s.sock", &list))
	must(t, Totals(ctx, dir+"/s.sock", &totals))
	if !strings.Contains(list.String(), "Committed") || !strings.Contains(totals.String(), "View       1") {
		t.Errorf("%s\n%s", &list, &totals)
	}
}
