package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

const (
	longestLine = 64 << 10
	// tailLines and tailBytes are how much of its output explains why a process failed: what a kubelet takes.
	tailLines, tailBytes = 80, 2048
)

// output is where a process's lines go.
type output struct {
	pod    Pod
	onLine func(Line)
	file   *os.File

	mu sync.Mutex
	// stdout and stderr are the last lines of each.
	stdout, stderr tail
	fileErr        error
}

func newOutput(pod Pod, onLine func(Line)) (*output, error) {
	o := &output{pod: pod, onLine: onLine}
	if pod.LogFile != "" {
		var err error
		if o.file, err = os.OpenFile(pod.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			return nil, fmt.Errorf("cannot write the process's output: %w", err)
		}
	}
	return o, nil
}

func (o *output) close() {
	if o.file == nil {
		return
	}
	if err := errors.Join(o.fileErr, o.file.Close()); err != nil {
		o.onLine(Line{Pod: o.pod, Stderr: true, Text: fmt.Sprintf("(%s is not complete: %v)", o.pod.LogFile, err)})
	}
}

// read passes on what comes from r, until it ends.
func (o *output) read(r io.Reader, stderr bool) {
	lines := bufio.NewReaderSize(r, longestLine)
	for {
		b, err := lines.ReadSlice('\n')
		if len(b) > 0 {
			o.line(b, stderr)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return // the end: of the process, or of waiting for what it left behind
		}
	}
}

func (o *output) line(b []byte, stderr bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil && o.fileErr == nil {
		_, o.fileErr = o.file.Write(b)
	}
	text := strings.ToValidUTF8(string(bytes.TrimRight(b, "\r\n")), "\uFFFD")
	if stderr {
		o.stderr.add(text)
	} else {
		o.stdout.add(text)
	}
	o.onLine(Line{Pod: o.pod, Stderr: stderr, Text: text})
}

// explain gives the last lines of the error output, or of the output when there are none.
func (o *output) explain() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.stderr.String(); s != "" {
		return s
	}
	return o.stdout.String()
}

// tail keeps the last lines.
type tail struct {
	lines []string
	bytes int
}

func (t *tail) add(line string) {
	if len(line) > tailBytes {
		line = strings.ToValidUTF8(line[len(line)-tailBytes:], "")
	}
	t.lines = append(t.lines, line)
	t.bytes += len(line) + 1
	for len(t.lines) > tailLines || t.bytes > tailBytes && len(t.lines) > 1 {
		t.bytes -= len(t.lines[0]) + 1
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string { return strings.TrimSpace(strings.Join(t.lines, "\n")) }
