// Package workflows embeds packages of workflows as `pyflyte package` makes them, one for each Python module beside this
// file; make.py makes them anew. Most of their tasks are jobs of the service in go/backendtest (jobs.go).
package workflows

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed *.tgz demo/*.tgz
var archives embed.FS

// folder is the package "chains" unpacked, protobuf files.
//
//go:embed folder/*.pb
var folder embed.FS

// Archive gives the package of a module, for example "chains": a gzipped tar file. It panics for a name that is not there.
func Archive(module string) []byte {
	for _, name := range []string{module + ".tgz", path.Join(module, module+".tgz")} {
		if raw, err := archives.ReadFile(name); err == nil {
			return raw
		}
	}
	panic(fmt.Sprintf("no package of module %q; there is %s", module, strings.Join(Modules(), ", ")))
}

// Modules lists the modules that have a package.
func Modules() []string {
	var out []string
	err := fs.WalkDir(archives, ".", func(name string, _ fs.DirEntry, err error) error {
		if base, ok := strings.CutSuffix(path.Base(name), ".tgz"); ok {
			out = append(out, base)
		}
		return err
	})
	if err != nil {
		panic(err) // an embedded folder can be read
	}
	slices.Sort(out)
	return out
}

// Folder gives the package of the module "chains" once more, unpacked.
func Folder() fs.FS {
	sub, err := fs.Sub(folder, "folder")
	if err != nil {
		panic(err) // the name is valid
	}
	return sub
}
