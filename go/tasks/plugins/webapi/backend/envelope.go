package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// stateVersion marks plugin state as ours. Web API and Kubernetes plugins write 1, array plugins 0.
const stateVersion uint8 = 0xB7

// The first bytes of an envelope: a second mark, since propeller writes the phase version as state version when a plugin
// leaves its state alone, and then the envelope's own format.
const (
	envelopeMagic  = 0xFB
	envelopeFormat = 1
)

// envelope is what a task that a backend owns keeps between rounds: a few bytes round the machinery's own state.
type envelope struct {
	// Deployment is the service that owns the task; empty while none could be decided on.
	Deployment    string
	PluginVersion string
	Mode          client.Mode
	// Phase, Version, Info and At are what was last reported: Info is a hash of what people see, At in Unix seconds.
	Phase   core.Phase
	Version uint32
	Info    uint64
	At      int64
	// Since is when the first of an unbroken run of failures to create was seen, in Unix seconds; 0 when none.
	Since int64
	// Inner is the machinery's state and its version.
	InnerVersion uint8
	Inner        []byte
}

func (e envelope) encode() []byte {
	b := make([]byte, 0, 32+len(e.Deployment)+len(e.PluginVersion)+len(e.Inner))
	b = append(b, envelopeMagic, envelopeFormat, byte(e.Mode), byte(e.Phase), e.InnerVersion) //nolint:gosec // phases are not negative
	b = binary.AppendUvarint(b, uint64(e.Version))
	b = binary.AppendUvarint(b, e.Info)
	b = binary.AppendVarint(b, e.At)
	b = binary.AppendVarint(b, e.Since)
	for _, part := range [][]byte{[]byte(e.Deployment), []byte(e.PluginVersion), e.Inner} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

var errEnvelope = errors.New("the task's plugin state is damaged")

func decodeEnvelope(b []byte) (envelope, error) {
	if len(b) < 5 || b[0] != envelopeMagic {
		return envelope{}, fmt.Errorf("%w: not an envelope of the backend plugin", errEnvelope)
	}
	if b[1] != envelopeFormat {
		return envelope{}, fmt.Errorf("%w: format %d was written by another version of this plugin, this one reads format %d", errEnvelope, b[1], envelopeFormat)
	}
	r := reader{b: b[5:]}
	e := envelope{
		Mode: client.Mode(b[2]), Phase: core.Phase(b[3]), InnerVersion: b[4], //nolint:gosec // phases are below 128
		Version: uint32(min(r.uvarint(), math.MaxUint32)),
		Info:    r.uvarint(),
		At:      r.varint(), Since: r.varint(),
	}
	e.Deployment, e.PluginVersion = string(r.bytes()), string(r.bytes())
	if inner := r.bytes(); len(inner) > 0 {
		e.Inner = inner
	}
	if r.bad || len(r.b) > 0 {
		return envelope{}, fmt.Errorf("%w: it is cut or has %d bytes too many", errEnvelope, len(r.b))
	}
	return e, nil
}

// reader takes values off the front of b; bad is set when one was cut.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.skip(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	r.skip(n)
	return v
}

func (r *reader) skip(n int) {
	if n <= 0 {
		r.bad, r.b = true, nil
		return
	}
	r.b = r.b[n:]
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

// since says how long ago t (Unix seconds) was; 0 when t is unset or in the future.
func since(t int64, now time.Time) time.Duration {
	if t == 0 {
		return 0
	}
	return max(now.Sub(time.Unix(t, 0)), 0)
}

// resourceMeta is what the machinery keeps of a created job, and hands back to Get, Status and Delete.
type resourceMeta struct {
	key        string
	deployment string
	target     client.Target
	id         client.JobID
}

// String keeps the job id, which may hold a service's credentials, out of the machinery's logs.
func (m resourceMeta) String() string {
	return fmt.Sprintf("job at backend deployment %q", m.deployment)
}

// GoString keeps the job id out of %#v.
func (m resourceMeta) GoString() string { return m.String() }

// GobEncode writes the machinery's state small, and independent of field names.
func (m resourceMeta) GobEncode() ([]byte, error) {
	b := []byte{envelopeMagic, envelopeFormat}
	b = binary.AppendVarint(b, int64(m.target.TaskTypeVersion))
	for _, part := range [][]byte{[]byte(m.key), []byte(m.deployment), []byte(m.target.TaskType), []byte(m.target.PluginVersion), m.id} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b, nil
}

// GobDecode reads what GobEncode wrote.
func (m *resourceMeta) GobDecode(b []byte) error {
	if len(b) < 2 || b[0] != envelopeMagic || b[1] != envelopeFormat {
		return fmt.Errorf("%w: unknown format of the job's reference", errEnvelope)
	}
	r := reader{b: b[2:]}
	m.target.TaskTypeVersion = int32(r.varint()) //nolint:gosec // written from an int32
	m.key, m.deployment = string(r.bytes()), string(r.bytes())
	m.target.TaskType, m.target.PluginVersion = string(r.bytes()), string(r.bytes())
	m.id = append(client.JobID{}, r.bytes()...)
	if r.bad {
		return fmt.Errorf("%w: the job's reference is cut", errEnvelope)
	}
	return nil
}
