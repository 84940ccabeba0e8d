package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/ioutils"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/webapi"
	"github.com/flyteorg/flyte/flytepropeller/pkg/compiler/validators"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// writeOutputs hands a succeeded job's outputs to propeller: those of the answer, or the files at the output prefix, among
// which propeller looks for an error first. A problem is the job's fault, an error the data store's.
func writeOutputs(ctx context.Context, sCtx webapi.StatusContext, meta resourceMeta, job *client.Job) (problem *core.ExecutionError, err error) {
	tmpl, err := sCtx.TaskReader().Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the task template: %w", err)
	}
	reader := ioutils.NewRemoteFileOutputReader(ctx, sCtx.DataStore(), sCtx.OutputWriter(), 0)
	declared := tmpl.GetInterface().GetOutputs().GetVariables()
	if len(declared) == 0 {
		// A container may exit with 0 and yet have written an error; propeller looks when it is given a reader.
		return nil, sCtx.OutputWriter().Put(ctx, reader)
	}
	if job.Outputs != nil {
		if wrong := mismatch(declared, job.Outputs.GetLiterals()); wrong != "" {
			return &core.ExecutionError{
				Code: CodeOutputsMismatch, Kind: core.ExecutionError_USER,
				Message: fmt.Sprintf("the outputs of the job at backend deployment %q do not fit the interface of task %q: %s",
					meta.deployment, tmpl.GetId().GetName(), wrong),
			}, nil
		}
		// Propeller would write them, and the tasks that take them could not read what it wrote.
		if size, limit := int64(proto.Size(job.Outputs)), storage.GetConfig().Limits.GetLimitMegabytes<<20; limit > 0 && size > limit {
			return &core.ExecutionError{
				Code: CodeOutputsTooLarge, Kind: core.ExecutionError_USER,
				Message: fmt.Sprintf("the outputs of the job at backend deployment %q have %d bytes, and propeller reads at most %d (storage.limits.maxDownloadMBs): "+
					"a job puts large data beside its outputs, and a reference into them", meta.deployment, size, limit),
			}, nil
		}
		return nil, sCtx.OutputWriter().Put(ctx, ioutils.NewInMemoryOutputReader(job.Outputs, nil, nil))
	}
	exists, err := reader.Exists(ctx)
	if errors.Is(err, ioutils.ErrRemoteFileExceedsMaxSize) {
		return nil, sCtx.OutputWriter().Put(ctx, reader) // propeller looks again, and fails the task
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for outputs at %s: %w", sCtx.OutputWriter().GetOutputPath(), err)
	}
	if !exists {
		// The job may have said that it succeeded and yet have written an error.
		if exists, err = reader.IsError(ctx); err != nil {
			return nil, fmt.Errorf("cannot look for an error at %s: %w", sCtx.OutputWriter().GetErrorPath(), err)
		}
	}
	if !exists {
		return &core.ExecutionError{
			Code: CodeOutputsMissing, Kind: core.ExecutionError_USER,
			Message: fmt.Sprintf("the job at backend deployment %q succeeded, but gave no outputs and wrote none to %s; the interface declares: %s",
				meta.deployment, sCtx.OutputWriter().GetOutputPath(), strings.Join(names(declared), ", ")),
		}, nil
	}
	return nil, sCtx.OutputWriter().Put(ctx, reader)
}

// readErrorFile gives the error that a failed job wrote at its output prefix, or nil.
func readErrorFile(ctx context.Context, sCtx webapi.StatusContext) (*core.ExecutionError, bool, error) {
	reader := ioutils.NewRemoteFileOutputReader(ctx, sCtx.DataStore(), sCtx.OutputWriter(), 0)
	is, err := reader.IsError(ctx)
	if err != nil || !is {
		return nil, false, err
	}
	e, err := reader.ReadError(ctx)
	return e.ExecutionError, e.IsRecoverable, err
}

// mismatch says how outputs do not fit the declared variables; empty when they do.
func mismatch(declared map[string]*core.Variable, outputs map[string]*core.Literal) string {
	var wrong []string
	for _, name := range names(declared) {
		want := declared[name].GetType()
		l, ok := outputs[name]
		switch {
		case !ok || l == nil:
			wrong = append(wrong, fmt.Sprintf("%s is missing", name))
		case !fits(l, want):
			wrong = append(wrong, fmt.Sprintf("%s should be %s, but is %s", name, describeType(want), describeType(typeOf(l))))
		}
	}
	for _, name := range names(outputs) {
		if _, ok := declared[name]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s is not declared", name))
		}
	}
	return strings.Join(wrong, "; ")
}

// fits asks propeller's own compiler. What a literal does not show of its type counts as fitting: binary blobs
// (flytekit's msgpack for dataclasses, whose declared type is a struct), empty collections, and data kept elsewhere.
func fits(l *core.Literal, want *core.LiteralType) bool {
	switch {
	case l.GetOffloadedMetadata() != nil, l.GetScalar().GetBinary() != nil:
		return true
	case l.GetCollection() != nil && want.GetCollectionType() != nil:
		return !slices.ContainsFunc(l.GetCollection().GetLiterals(), func(item *core.Literal) bool {
			return !fits(item, want.GetCollectionType())
		})
	case l.GetMap() != nil && want.GetMapValueType() != nil:
		for _, item := range l.GetMap().GetLiterals() {
			if !fits(item, want.GetMapValueType()) {
				return false
			}
		}
		return true
	case l.GetScalar().GetUnion() != nil:
		return fits(l.GetScalar().GetUnion().GetValue(), want) || castable(l, want)
	case want.GetUnionType() != nil:
		return slices.ContainsFunc(want.GetUnionType().GetVariants(), func(v *core.LiteralType) bool { return fits(l, v) })
	case l.GetScalar().GetSchema() != nil, l.GetScalar().GetStructuredDataset() != nil:
		// A service often leaves out columns that the interface names; readers use the interface's.
		return want.GetSchema() != nil || want.GetStructuredDatasetType() != nil
	case want.GetEnumType() != nil:
		return l.GetScalar().GetPrimitive().GetValue() != nil && slices.Contains(want.GetEnumType().GetValues(), l.GetScalar().GetPrimitive().GetStringValue())
	case want.GetSimple() == core.SimpleType_NONE && want.GetType() != nil:
		return l.GetScalar().GetNoneType() != nil
	case l.GetScalar().GetNoneType() != nil:
		return false // no declared None, and no union that holds one
	}
	return castable(l, want)
}

func castable(l *core.Literal, want *core.LiteralType) (ok bool) {
	have := typeOf(l)
	if have == nil || want == nil {
		return false
	}
	defer noPanic(func() { ok = false })
	return validators.AreTypesCastable(have, want)
}

// typeOf gives the type that a literal shows, or nil.
func typeOf(l *core.Literal) (t *core.LiteralType) {
	defer noPanic(func() { t = nil })
	return validators.LiteralTypeForLiteral(l)
}

// noPanic is deferred round propeller's compiler, which panics at literals that hold nothing. The round would fail every time.
func noPanic(instead func()) {
	if recover() != nil {
		instead()
	}
}

// describeType names a type as people write it.
func describeType(t *core.LiteralType) string {
	switch v := t.GetType().(type) {
	case nil:
		return "nothing"
	case *core.LiteralType_Simple:
		return strings.ToLower(v.Simple.String())
	case *core.LiteralType_Schema:
		return "a schema"
	case *core.LiteralType_StructuredDatasetType:
		return "a structured dataset"
	case *core.LiteralType_CollectionType:
		return "a list of " + describeType(v.CollectionType)
	case *core.LiteralType_MapValueType:
		return "a map of " + describeType(v.MapValueType)
	case *core.LiteralType_Blob:
		return "a blob"
	case *core.LiteralType_EnumType:
		return "one of " + strings.Join(v.EnumType.GetValues(), ", ")
	case *core.LiteralType_UnionType:
		parts := make([]string, 0, len(v.UnionType.GetVariants()))
		for _, variant := range v.UnionType.GetVariants() {
			parts = append(parts, describeType(variant))
		}
		return strings.Join(parts, " or ")
	default:
		return fmt.Sprintf("%T", v)
	}
}

func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
