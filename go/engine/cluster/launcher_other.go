//go:build !linux && !darwin

package cluster

import (
	"errors"
	"os/exec"
	"runtime"
	"time"
)

type launcher struct{}

func newLauncher(time.Duration) (*launcher, error) {
	return nil, errors.New("container tasks cannot run as local processes on " + runtime.GOOS)
}
func (*launcher) start(*exec.Cmd, *output) (*process, error) { return nil, errors.ErrUnsupported }
func (*launcher) close()                                     {}

type process struct{}

func (*process) wait(<-chan struct{}) ending { return ending{} }
