// Command pythonbench measures what the Python package costs: its service against peers that answer with a constant, and against
// flytekit's connector service, by one client, in alternating rounds. `make bench-python` runs it.
//
// Servers are pinned to one core and the client to another, so that what is measured is a server's core. What counts is ratios
// within one run: machines differ, and a busy one moves all figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{}
	flag.StringVar(&o.python, "python", "", "`FOLDER` of the virtual environment with the package (tools/python.sh)")
	flag.StringVar(&o.connector, "connector", "", "`FOLDER` of that with flytekit's connector service (tools/connector.sh)")
	flag.IntVar(&o.rounds, "rounds", 5, "how often all is measured")
	only := flag.String("server", ".", "only servers whose name matches this `REGEXP`")
	flag.DurationVar(&o.lasts, "time", 2*time.Second, "how long each measurement takes")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pythonbench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

type options struct {
	python, connector string
	only              *regexp.Regexp
	rounds            int
	lasts             time.Duration
}

// call is something that a server is asked many times.
type call struct {
	name    string
	callers int
	jobs    int // that one call asks for
}

var calls = []call{{"poll", 1, 1}, {"poll", 64, 1}, {"create", 64, 1}, {"batch", 8, 500}}

func run(ctx context.Context, o options) error {
	if o.python == "" || o.connector == "" || o.rounds < 1 {
		return errors.New("needs -python and -connector, and at least one round")
	}
	pinClient(ctx)
	figures := map[string]map[call][]figure{}
	listening := map[string][]time.Duration{}
	memory := map[string][]int{}
	for round := range o.rounds {
		for _, s := range servers(o) {
			fmt.Fprintf(os.Stderr, "\rround %d of %d: %-20s", round+1, o.rounds, s.name)
			if err := measure(ctx, o, s, figures, listening, memory); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	fmt.Fprint(os.Stderr, "\r", strings.Repeat(" ", 60), "\r")
	show(os.Stdout, o, figures, listening, memory)
	return nil
}

// measure starts a server, makes every call at it that it has, and ends it.
func measure(ctx context.Context, o options, s *server, figures map[string]map[call][]figure, listening map[string][]time.Duration, memory map[string][]int) error {
	took, err := s.start(ctx)
	defer s.end()
	if err != nil {
		return err
	}
	listening[s.name] = append(listening[s.name], took)
	client, err := s.dial(s.address)
	if err != nil {
		return err
	}
	defer client.close()
	for _, c := range calls {
		do := client.calls[c.name]
		if do == nil {
			continue
		}
		if _, err := load(ctx, c, do, o.lasts/4, s.pid()); err != nil { // warms up
			return fmt.Errorf("%s: %w", c.name, err)
		}
		f, err := load(ctx, c, do, o.lasts, s.pid())
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if figures[s.name] == nil {
			figures[s.name] = map[call][]figure{}
		}
		figures[s.name][c] = append(figures[s.name][c], f)
		if c.name == "create" { // a batch of answers in flight is memory of another kind
			memory[s.name] = append(memory[s.name], s.memory())
		}
	}
	return nil
}

func median[T int | float64 | time.Duration](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func of[T int | float64 | time.Duration](figures []figure, value func(figure) T) T {
	var out []T
	for _, f := range figures {
		out = append(out, value(f))
	}
	return median(out)
}

func rate(f figure) float64      { return f.rate }
func p50(f figure) time.Duration { return f.p50 }
func p99(f figure) time.Duration { return f.p99 }
func cpu(f figure) float64       { return f.cpu }

func show(w io.Writer, o options, figures map[string]map[call][]figure, listening map[string][]time.Duration, memory map[string][]int) {
	printf := func(form string, values ...any) { _, _ = fmt.Fprintf(w, form, values...) }
	printf("Medians of %d rounds of %s; the server on one core, the client on another.\n\n", o.rounds, o.lasts)
	printf("| call | callers | server | jobs/s | p50 | p99 | CPU s per 1,000 calls |\n|---|---|---|---|---|---|---|\n")
	all := servers(o)
	for _, c := range calls {
		for _, s := range all {
			f := figures[s.name][c]
			if len(f) == 0 {
				continue
			}
			printf("| %s | %d | %s | %.0f | %.2f ms | %.2f ms | %.3f |\n", c.name, c.callers, s.name, of(f, rate),
				float64(of(f, p50).Microseconds())/1000, float64(of(f, p99).Microseconds())/1000, of(f, cpu))
		}
	}
	printf("\n| server | listening after | memory |\n|---|---|---|\n")
	for _, s := range all {
		printf("| %s | %.2f s | %d MB |\n", s.name, median(listening[s.name]).Seconds(), median(memory[s.name])>>20)
	}
	many := call{"poll", 64, 1}
	ratio := func(ours string, a call, theirs string, b call) float64 {
		return of(figures[ours][a], rate) / of(figures[theirs][b], rate)
	}
	if o.only.String() != "." {
		return
	}
	printf("\n| aim | | |\n|---|---|---|\n")
	aim := func(what string, got float64, least bool, limit float64, form string) {
		sign, met := "≥", got >= limit
		if !least {
			sign, met = "≤", got <= limit
		}
		mark := "met"
		if !met {
			mark = "missed"
		}
		printf("| %s | "+form+" (%s "+form+") | %s |\n", what, got, sign, limit, mark)
	}
	batch := calls[3]
	aim("REST polls, of a plain FastAPI handler's", ratio(oursREST, many, peerFastAPI, many), true, 2, "%.2f")
	aim("REST polls, of raw Starlette's", ratio(oursREST, many, peerStarlette, many), true, 0.7, "%.2f")
	aim("gRPC polls, of flytekit's", ratio(oursGRPC, many, peerFlytekit, many), true, 1.1, "%.2f")
	aim("gRPC polls, of bare grpc.aio's", ratio(oursGRPC, many, peerGRPC, many), true, 0.9, "%.2f")
	aim("jobs polled in batches over REST, of flytekit's", ratio(oursREST, batch, peerFlytekit, many), true, 20, "%.0f")
	aim("jobs polled in batches over gRPC, of flytekit's", ratio(oursGRPC, batch, peerFlytekit, many), true, 20, "%.0f")
	aim("MB with REST", float64(median(memory[oursREST])>>20), false, 60, "%.0f")
	aim("MB with gRPC", float64(median(memory[oursGRPC])>>20), false, 80, "%.0f")
	aim("seconds until it listens", median(listening[oursREST]).Seconds(), false, 0.6, "%.2f")
}
