package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

const (
	formatParquet = "parquet"
	// schemaFile is what flytekit calls the first file of a schema's folder; it reads whatever is in the folder and
	// does not start with a dot.
	schemaFile = "00000"
)

// destination is where a job's result goes: a file on this machine, and the uri that the output literal says.
type destination struct {
	out  *output
	file string
	uri  string
}

// destinationFor refuses what this example cannot write to, before any work is done.
func destinationFor(prefix, id string, out *output) (destination, error) {
	folder, ok := jobFolder(prefix, id)
	if !ok {
		return destination{}, userError("UnsupportedOutput", fmt.Errorf("the output prefix %q is not supported: "+
			"this service writes to file:///path and to absolute paths only, "+
			"and to file://container/path when Options.LocalStore (--local-store) says where containers are", redact(prefix)))
	}
	// The uri keeps the form of the prefix: whoever wrote file:// there gets it back.
	base := strings.TrimRight(prefix, "/") + "/" + id + "/" + out.name
	if out.schema != nil {
		return destination{out: out, file: filepath.Join(folder, out.name, schemaFile), uri: base}, nil
	}
	return destination{out: out, file: filepath.Join(folder, out.name+".parquet"), uri: base + ".parquet"}, nil
}

// absolute gives the place of a name in a local data store; any other prefix stays as it is, and so does a name that
// leads out of the store.
func (s *Service) absolute(prefix string) string {
	rest, ok := strings.CutPrefix(prefix, "file://")
	if !ok || s.opts.LocalStore == "" || !filepath.IsLocal(rest) {
		return prefix
	}
	return "file://" + filepath.Join(s.opts.LocalStore, rest)
}

// jobFolder is the folder below the output prefix that holds everything one job writes, and nothing else; false
// when the prefix leads to no place that this example can write to.
func jobFolder(prefix, id string) (string, bool) {
	dir, ok := localPath(prefix)
	if !ok {
		return "", false
	}
	return filepath.Join(dir, id), true
}

// write stores the result and describes it as the output's type asks.
func (d destination) write(t *table) (*core.Literal, error) {
	kinds := t.kinds()
	if err := d.checkColumns(t); err != nil {
		return nil, userError("MissingColumns", err)
	}
	if err := writeFile(d.file, t, kinds); err != nil {
		return nil, systemError("WriteFailed", fmt.Errorf("write the result: %w", err))
	}
	scalar := &core.Scalar{}
	if d.out.schema != nil {
		typ := d.out.schema
		if len(typ.GetColumns()) == 0 {
			typ = schemaType(t, kinds)
		}
		scalar.Value = &core.Scalar_Schema{Schema: &core.Schema{Uri: d.uri, Type: typ}}
	} else {
		scalar.Value = &core.Scalar_StructuredDataset{StructuredDataset: &core.StructuredDataset{
			Uri:      d.uri,
			Metadata: &core.StructuredDatasetMetadata{StructuredDatasetType: datasetType(t, kinds)},
		}}
	}
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: scalar}}, nil
}

// checkColumns finds a declared column that the result lacks here, where the query is at hand, rather than in the
// task that reads it.
func (d destination) checkColumns(t *table) error {
	var declared, have []string
	for _, c := range d.out.schema.GetColumns() {
		declared = append(declared, c.GetName())
	}
	for _, c := range d.out.dataset.GetColumns() {
		declared = append(declared, c.GetName())
	}
	for _, c := range t.columns {
		have = append(have, c.name)
	}
	for _, name := range declared {
		if !slices.Contains(have, name) {
			return fmt.Errorf("output %s declares a column %q that the query does not return; it returns %s", d.out.name, name, list(have))
		}
	}
	return nil
}

func schemaType(t *table, kinds []kindOf) *core.SchemaType {
	typ := &core.SchemaType{}
	for i, c := range t.columns {
		typ.Columns = append(typ.Columns, &core.SchemaType_SchemaColumn{Name: c.name, Type: kinds[i].schemaType()})
	}
	return typ
}

func datasetType(t *table, kinds []kindOf) *core.StructuredDatasetType {
	typ := &core.StructuredDatasetType{Format: formatParquet}
	for i, c := range t.columns {
		typ.Columns = append(typ.Columns, &core.StructuredDatasetType_DatasetColumn{
			Name:        c.name,
			LiteralType: &core.LiteralType{Type: &core.LiteralType_Simple{Simple: kinds[i].simpleType()}},
		})
	}
	return typ
}

// writeFile makes the file appear in one piece: whoever sees it sees all of it, also after a power cut.
func writeFile(path string, t *table, kinds []kindOf) (err error) {
	dir := filepath.Dir(path)
	//nolint:gosec // G301: the task that reads the result may run as another user
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The dot hides it from flytekit, which would read any other file in a schema's folder.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	err = writeParquet(f, t, kinds)
	if err == nil {
		err = f.Sync()
	}
	// CreateTemp's files are for their owner only; the task that reads this one may run as another user.
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
