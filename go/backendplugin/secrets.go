package backendplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/codes"
)

// Secrets reads secrets where flytekit does: first the environment variable _FSEC_<GROUP>_<KEY>, in capitals, then the file
// /etc/secrets/<group>/<key>, in small letters. The zero value is ready for use, by any number of goroutines.
type Secrets struct {
	// EnvPrefix begins the variable's name; empty means _FSEC_.
	EnvPrefix string
	// Dir holds the files; empty means /etc/secrets.
	Dir string
}

// Get reads a secret anew, so that a file that is rotated is seen. White space round it is cut off, as flytekit does. A secret
// that is not there is a [FailedPrecondition], which names where it was looked for; nothing names what is in it. Returned by a
// method that is about a job, such as Get or Delete, it is told as a [SystemError]: nothing is wrong with the job, and propeller
// asks again.
func (s Secrets) Get(group, key string) (string, error) {
	prefix, dir := s.EnvPrefix, s.Dir
	if prefix == "" {
		prefix = "_FSEC_"
	}
	if dir == "" {
		dir = "/etc/secrets"
	}
	for _, part := range []string{group, key} {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\\\x00=") {
			return "", UserError("a secret has a group and a key, and %q cannot be one", part)
		}
	}
	variable := prefix + strings.ToUpper(group+"_"+key)
	if v, ok := os.LookupEnv(variable); ok {
		return strings.TrimSpace(v), nil
	}
	file := filepath.Join(dir, strings.ToLower(group), strings.ToLower(key))
	raw, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", NewError(codes.FailedPrecondition, &missingSecret{fmt.Sprintf("secret %s of group %s is neither in the environment as %s nor in the file %s", key, group, variable, file)})
	case err != nil:
		return "", fmt.Errorf("secret %s of group %s: %w", key, group, err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// missingSecret is the cause of an error of [Secrets.Get].
type missingSecret struct{ text string }

func (e *missingSecret) Error() string { return e.text }

// aboutJob is the error of a call about a job, which does not end because a secret is away.
func aboutJob(err error) error {
	if _, missing := errors.AsType[*missingSecret](err); missing {
		return NewError(codes.Internal, err)
	}
	return err
}
