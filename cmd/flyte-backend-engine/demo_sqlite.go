package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/flyte-backend/flyte-backend/cmd/internal/example"
	"github.com/flyte-backend/flyte-backend/go/examples/sqlite"
	_ "github.com/flyteorg/flyte/flyteplugins/go/tasks/plugins/testing" // the built-in echo plugin, which the act falls back to
)

// What the workflow of the act is due to do: see testdata/workflows/demo/demo.py.
const (
	demoItems = 20
	demoJobs  = demoItems + 3
	demoFirst = "Nh, Nihonium, discovered 2003" // the latest discovery among the elements whose name ends with "ium"
)

// sqliteAct runs queries at the example service, which keeps its jobs in a folder. This program is the service too.
func sqliteAct(dir string) (*act, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program to start the service from: %w", err)
	}
	addr, err := keptPort()
	if err != nil {
		return nil, err
	}
	jobs := filepath.Join(dir, "jobs")
	return &act{
		title:  "SQL queries at a service in Go, over gRPC",
		module: "demo", workflow: "elements",
		deployment: "sqlite", config: fmt.Sprintf("{endpoint: %q, insecure: true}", addr),
		service: &serviceProcess{
			name: "sqlite", dir: dir, addr: addr, program: program,
			args:   []string{"serve", "--insecure", "--listen", addr, "--dir", jobs, "--min-job-time", "1s", "--workers", "8"},
			serves: func(line string) bool { return strings.HasPrefix(line, example.Listening) },
		},
		judge: func(ctx context.Context, s seen) (verdict, error) {
			made, runs, err := sqlite.Count(ctx, jobs)
			return &sqliteSeen{seen: s, jobs: made, runs: runs}, err
		},
	}, nil
}

// sqliteSeen is what came of the act.
type sqliteSeen struct {
	seen
	jobs, runs int // at the service
}

func (s *sqliteSeen) lines() []string {
	var out []string
	for _, l := range s.output("o0").GetCollection().GetLiterals() {
		out = append(out, l.GetScalar().GetPrimitive().GetStringValue())
	}
	return out
}

func (s *sqliteSeen) unexpected() []string {
	out := s.seen.unexpected()
	lines := s.lines()
	out.due(len(lines) == demoItems, "%d lines came, %d were due", len(lines), demoItems)
	out.due(len(lines) > 0 && lines[0] == demoFirst, "the first line of %q was due to be %q", lines, demoFirst)
	owners := strings.Join(s.owners(), "\n")
	out.due(strings.Contains(owners, `task type "sqlite" to deployment "sqlite": registered by sqlite`), "type sqlite was due to go to the service: %s", owners)
	out.due(strings.Contains(owners, `task type "echo" to built-in plugin "echo"`), "type echo was due to fall back to the built-in plugin: %s", owners)
	out.due(s.jobs == demoJobs, "%d jobs were made, %d were due", s.jobs, demoJobs)
	out.due(s.runs > s.jobs, "of %d jobs none ran again, so none was killed", s.jobs)
	return out
}

func (s *sqliteSeen) tell(out io.Writer) {
	printf := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
	s.seen.tell(out)
	printf("cost       %d jobs for %d tasks, %d of them run again by the service; attempts beyond the first: %d\n", s.jobs, demoJobs, s.runs-s.jobs, s.attempts())
	lines := s.lines()
	for i, l := range lines[:min(3, len(lines))] {
		printf("%-10s %s\n", map[bool]string{true: "outputs"}[i == 0], l)
	}
	if len(lines) > 3 {
		printf("%-10s … %d in all\n", "", len(lines))
	}
	uri := s.output("o1").GetScalar().GetSchema().GetUri()
	columns, rows, err := sqlite.ReadRows(uri, -1)
	if err != nil {
		printf("%-10s %s cannot be read: %v\n", "", uri, err)
		return
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "%-10s %s\n", "", strings.Join(columns, "\t"))
	for _, row := range rows[max(0, len(rows)-3):] {
		cells := make([]string, 0, len(row))
		for _, v := range row {
			if v == nil {
				v = "-"
			}
			cells = append(cells, fmt.Sprint(v))
		}
		_, _ = fmt.Fprintf(table, "%-10s %s\n", "", strings.Join(cells, "\t"))
	}
	_ = table.Flush() // as any print
}
