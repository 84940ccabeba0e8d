package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
)

// Programs with propeller in them, which are much larger than this one.
const (
	engineName    = "flyte-backend-engine"
	propellerName = "flytepropeller"
)

// elsewhere are the commands that other programs have.
var elsewhere = map[string]string{"explain": propellerName, "local": engineName, "demo": engineName}

// completeElsewhere has the program that has a command complete its flags and arguments, if that is what args ask for. It returns if
// that is not so, or if there is no such program, where there is nothing to complete.
func completeElsewhere(args []string) {
	if len(args) < 4 || args[1] != cobra.ShellCompRequestCmd && args[1] != cobra.ShellCompNoDescRequestCmd {
		return
	}
	name, ok := elsewhere[args[2]]
	if !ok {
		return
	}
	if program, err := find(name); err == nil {
		_ = syscall.Exec(program, append([]string{program}, args[1:]...), os.Environ()) //nolint:gosec // as below
	}
}

// in makes a command that another program has, flags, help and all.
func in(name, short string) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		Short:              short,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := find(elsewhere[name])
			if err != nil {
				return err
			}
			// This process becomes the other one: signals, terminal and exit code are its own.
			argv := append([]string{program, name}, args...)
			err = syscall.Exec(program, argv, os.Environ()) //nolint:gosec // found beside this program, or by the user's PATH
			return &exit.Error{Code: exit.Internal, Err: fmt.Errorf("cannot start %s: %w", program, err)}
		},
	}
}

// find looks beside this program, in libexec beside its folder, and on PATH.
func find(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err == nil {
		dir := filepath.Dir(self)
		for _, path := range []string{
			filepath.Join(dir, name),
			filepath.Join(filepath.Dir(dir), "libexec", "flyte-backend", name),
		} {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", exit.Hint(&exit.Error{Code: exit.Internal, Err: fmt.Errorf("this command needs the program %s, which is not installed: it is neither beside %s nor on PATH", name, self)},
			"put it beside this program; `make build` makes all of them")
	}
	return path, nil
}
