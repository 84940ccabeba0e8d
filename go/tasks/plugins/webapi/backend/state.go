package backend

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"reflect"

	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
	"github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/interfaces"
)

func init() { gob.Register(resourceMeta{}) }

// arrayIndexVariable marks a sub-task of propeller's ArrayNode (map_task). Its value names the variable with the index.
const arrayIndexVariable = "BATCH_JOB_ARRAY_INDEX_VAR_NAME"

// record is what propeller knows of a task before a round.
type record struct {
	// fresh: no round of this attempt has been recorded yet.
	fresh bool
	// phase is the one that was recorded last.
	phase core.Phase
	// env is set when a backend owns the task.
	env *envelope
	// kept is false for ArrayNode's sub-tasks, whose plugin state propeller does not keep.
	kept bool
}

// nodeState is the part of propeller's task context that shows the recorded phase and the raw state. It is not in
// core.TaskExecutionContext, but propeller's own context has it. Without it a state can only be read by consuming it.
type nodeState interface {
	NodeStateReader() interfaces.NodeStateReader
}

// isNews says whether propeller's task handler will tell of the phase: it passes over the one that it has recorded.
func isNews(tCtx core.TaskExecutionContext, info core.PhaseInfo) bool {
	ns, ok := tCtx.(nodeState)
	if !ok {
		return false // it is none of that handler's contexts
	}
	ts := ns.NodeStateReader().GetTaskNodeState()
	return ts.PluginPhase != info.Phase() || ts.PluginPhaseVersion != info.Version()
}

func readRecord(tCtx core.TaskExecutionContext) (record, error) {
	_, inMap := arrayIndex(tCtx.TaskExecutionMetadata())
	rec := record{kept: !inMap}
	if ns, ok := tCtx.(nodeState); ok {
		ts := ns.NodeStateReader().GetTaskNodeState()
		rec.phase = ts.PluginPhase
		rec.fresh = ts.PluginPhase == core.PhaseUndefined
		if !rec.kept || ts.PluginStateVersion != uint32(stateVersion) {
			return rec, nil
		}
		var raw []byte
		err := gob.NewDecoder(bytes.NewReader(ts.PluginState)).Decode(&raw)
		if err != nil {
			return rec, fmt.Errorf("%w: %w", errEnvelope, err)
		}
		rec.env, err = openEnvelope(raw)
		return rec, err
	}
	if tCtx.PluginStateReader().GetStateVersion() != stateVersion {
		// A built-in plugin's state of version 0 looks like none; the router remembers what it decided.
		rec.fresh = tCtx.PluginStateReader().GetStateVersion() == 0
		return rec, nil
	}
	var raw []byte
	_, err := tCtx.PluginStateReader().Get(&raw)
	if err != nil {
		return rec, fmt.Errorf("%w: %w", errEnvelope, err)
	}
	rec.env, err = openEnvelope(raw)
	return rec, err
}

func openEnvelope(raw []byte) (*envelope, error) {
	env, err := decodeEnvelope(raw)
	return &env, err
}

// arrayIndex gives the index of a sub-task in its map, and whether the task is one.
func arrayIndex(meta core.TaskExecutionMetadata) (string, bool) {
	env := meta.GetEnvironmentVariables()
	variable, ok := env[arrayIndexVariable]
	return env[variable], ok
}

// innerContext is the task context that the machinery sees: a qualified name, and its own state inside the envelope.
type innerContext struct {
	core.TaskExecutionContext
	meta  core.TaskExecutionMetadata
	state *innerState
}

func newInnerContext(h *handling) *innerContext {
	return &innerContext{
		TaskExecutionContext: h.tCtx,
		meta:                 qualifiedMetadata{h.tCtx.TaskExecutionMetadata(), h.task.key, h},
		state:                &innerState{version: h.env.InnerVersion, old: h.env.Inner},
	}
}

func (c *innerContext) TaskExecutionMetadata() core.TaskExecutionMetadata { return c.meta }
func (c *innerContext) PluginStateReader() core.PluginStateReader         { return c.state }
func (c *innerContext) PluginStateWriter() core.PluginStateWriter         { return c.state }

// innerState reads the machinery's state from an envelope and catches what it writes, gob-encoded as propeller does.
type innerState struct {
	version    uint8
	old        []byte
	written    []byte
	newVersion uint8
	changed    bool
}

func (s *innerState) GetStateVersion() uint8 { return s.version }

func (s *innerState) Get(t any) (uint8, error) {
	if len(s.old) == 0 {
		return 0, nil
	}
	return s.version, gob.NewDecoder(bytes.NewReader(s.old)).Decode(t)
}

func (s *innerState) Put(version uint8, v any) error {
	b, err := encodeGob(v)
	if err != nil {
		return err
	}
	s.written, s.newVersion = b, version
	s.changed, err = s.differs(v, b)
	return err
}

func (s *innerState) Reset() error {
	s.written, s.newVersion, s.changed = nil, 0, len(s.old) > 0
	return nil
}

// differs compares by value: gob numbers its types by process, so the bytes of an equal state differ after a restart.
func (s *innerState) differs(v any, encoded []byte) (bool, error) {
	if len(s.old) == 0 {
		return true, nil
	}
	old := reflect.New(reflect.Indirect(reflect.ValueOf(v)).Type())
	if err := gob.NewDecoder(bytes.NewReader(s.old)).Decode(old.Interface()); err != nil {
		return false, err
	}
	again, err := encodeGob(old.Interface())
	return !bytes.Equal(again, encoded), err
}

func encodeGob(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}
