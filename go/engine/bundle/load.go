package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// maxPackage bounds what is read of one package: far more than any has, and less than what would fill the memory.
const maxPackage = 1 << 30

// Load reads a package: an archive that `pyflyte package` wrote (.tgz, .tar.gz, .tar), a folder that holds the files of such
// an archive, or a file with one core.CompiledWorkflowClosure.
func Load(name string, opts Options) (*Bundle, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the workflow package: %w", err)
	}
	if info.IsDir() {
		files, err := readFolder(os.DirFS(name))
		if err != nil {
			return nil, fmt.Errorf("cannot read the workflow package %s: %w", name, err)
		}
		return fromFiles(name, files, opts)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the workflow package: %w", err)
	}
	return Read(name, data, opts)
}

// Read is Load for the content of a file; name is for messages.
func Read(name string, data []byte, opts Options) (*Bundle, error) {
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("workflow package %s is no gzip archive: %w", name, err)
		}
		return fromTar(name, z, opts)
	case len(data) > 262 && string(data[257:262]) == "ustar":
		return fromTar(name, bytes.NewReader(data), opts)
	}
	closure := &core.CompiledWorkflowClosure{}
	if err := proto.Unmarshal(data, closure); err != nil || closure.GetPrimary().GetTemplate().GetId().GetName() == "" {
		return nil, fmt.Errorf("%s is no workflow package: neither an archive that `pyflyte package` writes, nor a folder with such files, nor a compiled workflow (core.CompiledWorkflowClosure)", name)
	}
	return FromClosure(closure, opts), nil
}

// FromClosure makes a bundle of one compiled workflow.
func FromClosure(closure *core.CompiledWorkflowClosure, opts Options) *Bundle {
	closure, _ = proto.Clone(closure).(*core.CompiledWorkflowClosure)
	if opts.Version == "" {
		opts.Version = closure.GetPrimary().GetTemplate().GetId().GetVersion()
	}
	if data, err := (proto.MarshalOptions{Deterministic: true}).Marshal(closure); err == nil {
		opts = opts.complete(map[string][]byte{"": data})
	}
	hydrate(closure.ProtoReflect(), opts)
	return &Bundle{opts: opts, compiled: closure}
}

func fromTar(name string, r io.Reader, opts Options) (*Bundle, error) {
	files := map[string][]byte{}
	tr := tar.NewReader(io.LimitReader(r, maxPackage))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return fromFiles(name, files, opts)
		}
		if err != nil {
			return nil, fmt.Errorf("workflow package %s cannot be read, it may be cut: %w", name, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("workflow package %s cannot be read, it may be cut: %w", name, err)
		}
		files[path.Base(h.Name)] = data
	}
}

func readFolder(dir fs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	names, err := fs.Glob(dir, "*.pb")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if files[filepath.Base(name)], err = fs.ReadFile(dir, name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// entity is how pyflyte names its files: a number, the entity's name, and its kind.
var entity = regexp.MustCompile(`^\d+_(.+)_([123])\.pb$`)

func fromFiles(name string, files map[string][]byte, opts Options) (*Bundle, error) {
	opts = opts.complete(files)
	b := &Bundle{
		opts: opts, tasks: map[string]*core.TaskTemplate{}, workflows: map[string]*admin.WorkflowSpec{}, launchPlans: map[string]*admin.LaunchPlan{},
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		m := entity.FindStringSubmatch(file)
		if m == nil {
			continue // the code of a fast registration, or a stranger's
		}
		msg := map[string]proto.Message{"1": &admin.TaskSpec{}, "2": &admin.WorkflowSpec{}, "3": &admin.LaunchPlan{}}[m[2]]
		if err := proto.Unmarshal(files[file], msg); err != nil {
			return nil, fmt.Errorf("workflow package %s: file %s is no %s: %w", name, file, msg.ProtoReflect().Descriptor().FullName(), err)
		}
		hydrate(msg.ProtoReflect(), opts)
		switch e := msg.(type) {
		case *admin.TaskSpec:
			b.tasks[e.GetTemplate().GetId().GetName()] = e.GetTemplate()
		case *admin.WorkflowSpec:
			b.workflows[e.GetTemplate().GetId().GetName()] = e
		case *admin.LaunchPlan:
			b.launchPlans[e.GetId().GetName()] = e
		}
	}
	if len(b.workflows) == 0 {
		return nil, fmt.Errorf("workflow package %s %w: is it what `pyflyte package` wrote?", name, ErrEmpty)
	}
	for planName, lp := range b.launchPlans {
		wf, ok := b.workflows[lp.GetSpec().GetWorkflowId().GetName()]
		if !ok {
			return nil, fmt.Errorf("workflow package %s: launch plan %q is for workflow %q, which the package does not hold", name, planName, lp.GetSpec().GetWorkflowId().GetName())
		}
		complement(lp, wf.GetTemplate().GetInterface())
	}
	return b, nil
}

// complete fills in defaults.
func (o Options) complete(files map[string][]byte) Options {
	if o.Project == "" {
		o.Project = "flytesnacks"
	}
	if o.Domain == "" {
		o.Domain = "development"
	}
	if o.Version == "" {
		h := sha256.New()
		for _, name := range slices.Sorted(maps.Keys(files)) {
			sum := sha256.Sum256(files[name])
			_, _ = fmt.Fprintf(h, "%s %x\n", name, sum) // a hash's Write does not fail
		}
		o.Version = hex.EncodeToString(h.Sum(nil))[:16]
	}
	return o
}

var identifierName = (&core.Identifier{}).ProtoReflect().Descriptor().FullName()

// hydrate gives every identifier in the message its project, domain and version where flytekit left them open (or, in old
// versions, wrote a placeholder), as registration does.
func hydrate(m protoreflect.Message, opts Options) {
	if m.Descriptor().FullName() == identifierName {
		if id, ok := m.Interface().(*core.Identifier); ok {
			id.Project, id.Domain, id.Version = fill(id.GetProject(), opts.Project), fill(id.GetDomain(), opts.Domain), fill(id.GetVersion(), opts.Version)
		}
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					hydrate(v.Message(), opts)
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				hydrate(v.List().Get(i).Message(), opts)
			}
		default:
			hydrate(v.Message(), opts)
		}
		return true
	})
}

func fill(have, want string) string {
	if have == "" || strings.HasPrefix(have, "{{") {
		return want
	}
	return have
}
