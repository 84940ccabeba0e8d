// Gendocs writes the configuration reference to the file that its one argument names.
package main

import (
	"fmt"
	"os"

	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendocs FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(config.Reference()), 0o644); err != nil { //nolint:gosec // a document that everybody may read
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}
