package backend

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytestdlib/logger"
	"github.com/flyteorg/flyte/flytestdlib/storage"
)

// Propeller's ArrayNode (map_task) keeps of a sub-task its phase and nothing else: every round it hands out a Kubernetes
// plugin's state of its own making. What a backend's sub-task cannot do without stands in a file beside its outputs, which
// is read once by every process that handles the sub-task.

// StateFile is the name of that file, below the sub-task's output prefix.
const StateFile = "backend.state"

// standing is how far a sub-task has come, as its file tells. It never goes back.
type standing byte

const (
	// standingNone has no file. Nothing of a backend's sub-task is recorded before its file is written, so a sub-task
	// that has a phase and no file is a built-in plugin's, and costs no write.
	standingNone standing = iota
	// standingHeld waits for a deployment that may register its type.
	standingHeld
	// standingBuiltIn was held, and then given to a built-in plugin.
	standingBuiltIn
	// standingDecided belongs to a deployment, which has not answered a create; a synchronous task stays there.
	standingDecided
	// standingCreated has a job.
	standingCreated
)

// The first bytes of the file, before a checksum of the rest.
const (
	stateFileMagic  = 0xFC
	stateFileFormat = 1
	stateFileHead   = 2 + crc32.Size
)

// maxStateFile bounds what is read: a job id is the only part of any size.
const maxStateFile = 2 * client.MaxJobID

// errStateFile wraps errEnvelope: what is done about a state that cannot be read is the same.
var errStateFile = fmt.Errorf("%w: its file cannot be used", errEnvelope)

// stateFile is one sub-task's file. Its methods may be called at once.
type stateFile struct {
	store *storage.DataStore
	ref   storage.DataReference
	key   string

	mu      sync.Mutex // held while the file is written, so that an older state cannot overwrite a newer one
	written standing
}

func newStateFile(ctx context.Context, tCtx core.TaskExecutionContext, key string) (*stateFile, error) {
	prefix := tCtx.OutputWriter().GetOutputPrefixPath()
	ref, err := tCtx.DataStore().ConstructReference(ctx, prefix, StateFile)
	if err != nil {
		return nil, fmt.Errorf("cannot name the state's file below %s: %w", prefix, err)
	}
	return &stateFile{store: tCtx.DataStore(), ref: ref, key: key}, nil
}

// saved is what the file holds. meta has no id before standingCreated.
type saved struct {
	standing standing
	env      envelope
	meta     resourceMeta
}

// write blocks for a write to the data store, unless the file tells as much already.
func (f *stateFile) write(ctx context.Context, k saved) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.written >= k.standing {
		return nil
	}
	k.meta.key = f.key
	b, err := k.encode()
	if err != nil {
		return err
	}
	// A failure to fill the store's own cache comes after the write.
	if err := f.store.WriteRaw(ctx, f.ref, int64(len(b)), storage.Options{}, bytes.NewReader(b)); err != nil && !storage.IsFailedWriteToCache(err) {
		return fmt.Errorf("cannot write the state's file %s: %w", f.ref, err)
	}
	f.written = k.standing
	return nil
}

// read blocks for a read from the data store. A file that is not there is standingNone.
func (f *stateFile) read(ctx context.Context) (saved, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, err := f.store.ReadRaw(ctx, f.ref)
	switch {
	case storage.IsNotFound(err):
		return saved{}, nil
	case storage.IsExceedsLimit(err):
		return saved{}, fmt.Errorf("%w: %s: %w", errStateFile, f.ref, err)
	case err != nil && !storage.IsFailedWriteToCache(err):
		return saved{}, fmt.Errorf("cannot read the state's file %s: %w", f.ref, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxStateFile+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return saved{}, fmt.Errorf("cannot read the state's file %s: %w", f.ref, err)
	}
	k, err := decodeSaved(b)
	if err == nil && k.meta.key != f.key {
		err = errors.New("it is another task's")
	}
	if err != nil {
		return saved{}, fmt.Errorf("%w: %s: %w", errStateFile, f.ref, err)
	}
	f.written = k.standing
	return k, nil
}

// encode keeps only what another process cannot find out: the decision, when waiting began, and the job. Phases are
// recorded by ArrayNode, and the machinery's own state follows from the job.
func (k saved) encode() ([]byte, error) {
	ref, err := k.meta.GobEncode()
	if err != nil {
		return nil, err
	}
	env := envelope{Deployment: k.env.Deployment, PluginVersion: k.env.PluginVersion, Mode: k.env.Mode, Since: k.env.Since, Inner: ref}
	body := append([]byte{byte(k.standing)}, env.encode()...)
	b := binary.BigEndian.AppendUint32([]byte{stateFileMagic, stateFileFormat}, crc32.ChecksumIEEE(body))
	return append(b, body...), nil
}

func decodeSaved(b []byte) (saved, error) {
	switch {
	case len(b) <= stateFileHead || b[0] != stateFileMagic:
		return saved{}, errors.New("it is cut or was not written by the backend plugin")
	case b[1] != stateFileFormat:
		return saved{}, fmt.Errorf("format %d was written by another version of this plugin, this one reads format %d", b[1], stateFileFormat)
	case binary.BigEndian.Uint32(b[2:]) != crc32.ChecksumIEEE(b[stateFileHead:]):
		return saved{}, errors.New("its checksum is wrong")
	}
	k := saved{standing: standing(b[stateFileHead])}
	var err error
	if k.env, err = decodeEnvelope(b[stateFileHead+1:]); err != nil {
		return saved{}, err
	}
	if err := k.meta.GobDecode(k.env.Inner); err != nil {
		return saved{}, err
	}
	k.env.Inner = nil
	return k, nil
}

// recall fills the memory of a sub-task that this process has not seen before from its file. It blocks for one read.
func (t *task) recall(ctx context.Context, tCtx core.TaskExecutionContext, rec record) error {
	t.mu.Lock()
	known := t.file != nil
	t.mu.Unlock()
	if known {
		return nil
	}
	file, err := newStateFile(ctx, tCtx, t.key)
	if err != nil {
		return err
	}
	k, err := file.read(ctx)
	if err != nil {
		return err
	}
	k.env.Phase = rec.phase
	t.mu.Lock()
	defer t.mu.Unlock()
	t.file = file
	switch k.standing {
	case standingNone:
		t.builtIn = !rec.fresh
	case standingBuiltIn:
		t.builtIn = true
	case standingCreated:
		t.call, t.recalled = answered(k.meta), true
		t.memory = &k.env
	default:
		t.memory = &k.env
	}
	return nil
}

// answered is a create that an earlier process made: the machinery goes through its first steps again, and finds it done.
func answered(meta resourceMeta) *call {
	c := &call{cancel: func() {}, target: meta.target, id: meta.id, done: make(chan struct{})}
	close(c.done)
	return c
}

// keep writes what the task has come to, if it is a sub-task and the file does not tell yet.
func (t *task) keep(ctx context.Context, env envelope) error {
	t.mu.Lock()
	file, c := t.file, t.call
	t.mu.Unlock()
	if file == nil {
		return nil
	}
	k := saved{standing: standingDecided, env: env}
	switch {
	case env.Deployment == "":
		k.standing = standingHeld
	case c != nil && env.Mode != client.Sync && c.finished() && c.err == nil:
		k.standing, k.meta = standingCreated, c.meta(t.key, env.Deployment)
	}
	return file.write(ctx, k)
}

// found writes down a job that was just created, if the task is a sub-task. A failure is only logged: the next round tries
// again, and fails with it.
func (t *task) found(ctx context.Context, env envelope, c *call) {
	t.mu.Lock()
	file := t.file
	t.mu.Unlock()
	if file == nil {
		return
	}
	if err := file.write(ctx, saved{standing: standingCreated, env: env, meta: c.meta(t.key, env.Deployment)}); err != nil {
		logger.Warnf(ctx, "task %s has a job: %v", t.id, err)
	}
}

// gaveUp writes that a held sub-task went to a built-in plugin.
func (t *task) gaveUp(ctx context.Context) error {
	t.mu.Lock()
	file := t.file
	t.mu.Unlock()
	if file == nil {
		return nil
	}
	return file.write(ctx, saved{standing: standingBuiltIn})
}

func (c *call) meta(key, deployment string) resourceMeta {
	return resourceMeta{key: key, deployment: deployment, target: c.target, id: c.id}
}
