package backend

import (
	"bytes"
	"encoding/gob"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/client"
	pluginscore "github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

func TestEnvelopeKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, e := range []envelope{
		{},
		{Deployment: "d", PluginVersion: "v2", Mode: client.Sync, Phase: pluginscore.PhaseRunning, Version: 1 << 31, Info: 1<<64 - 1,
			At: 1795470843, Since: -1, InnerVersion: 1, Inner: []byte{0, 1, 2}},
	} {
		got, err := decodeEnvelope(e.encode())
		require.NoError(t, err)
		require.Equal(t, e, got)
	}
	require.Less(t, len(envelope{Deployment: "default", PluginVersion: "v1", At: time.Now().Unix()}.encode()), 40, "a few bytes")
}

func TestEnvelopeRefusesDamage(t *testing.T) {
	t.Parallel()
	whole := envelope{Deployment: "default", PluginVersion: "v1", Inner: []byte("inner")}.encode()
	for cut := range whole {
		_, err := decodeEnvelope(whole[:cut])
		require.ErrorIs(t, err, errEnvelope, "cut at %d", cut)
	}
	_, err := decodeEnvelope(append(bytes.Clone(whole), 0))
	require.ErrorIs(t, err, errEnvelope)
	newer := bytes.Clone(whole)
	newer[1] = 9
	_, err = decodeEnvelope(newer)
	require.ErrorContains(t, err, "format 9 was written by another version")
}

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add(envelope{Deployment: "default", PluginVersion: "v1", Inner: []byte("inner")}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEnvelope(b); err == nil {
			again, err := decodeEnvelope(e.encode())
			require.NoError(t, err)
			require.Equal(t, e, again)
		}
	})
}

func TestStateFileKeepsEverything(t *testing.T) {
	t.Parallel()
	for _, k := range []saved{
		{standing: standingHeld, env: envelope{Since: 1795470843}},
		{standing: standingBuiltIn},
		{standing: standingDecided, env: envelope{Deployment: "d", PluginVersion: "v2", Mode: client.Sync}},
		{standing: standingCreated, env: envelope{Deployment: "d", PluginVersion: "v2"}, meta: resourceMeta{
			deployment: "d", target: client.Target{TaskType: "t", TaskTypeVersion: 3, PluginVersion: "v2"}, id: client.JobID("job")}},
	} {
		k.meta.key = "key"
		if k.meta.id == nil {
			k.meta.id = client.JobID{}
		}
		b, err := k.encode()
		require.NoError(t, err)
		got, err := decodeSaved(b)
		require.NoError(t, err)
		require.Equal(t, k, got)
		for cut := range b {
			_, err := decodeSaved(b[:cut])
			require.Error(t, err, "cut at %d", cut)
		}
		for i := range b {
			damaged := bytes.Clone(b)
			damaged[i] ^= 1
			_, err := decodeSaved(damaged)
			require.Error(t, err, "byte %d", i)
		}
	}
}

func FuzzDecodeStateFile(f *testing.F) {
	whole, err := saved{standing: standingCreated, env: envelope{Deployment: "d"}, meta: resourceMeta{key: "k", id: client.JobID("job")}}.encode()
	require.NoError(f, err)
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := decodeSaved(b); err == nil {
			again, err := k.encode()
			require.NoError(t, err)
			same, err := decodeSaved(again)
			require.NoError(t, err)
			require.Equal(t, k.meta, same.meta)
		}
	})
}

func TestResourceMetaSurvivesTheMachinery(t *testing.T) {
	t.Parallel()
	meta := resourceMeta{key: "k", deployment: "d", target: client.Target{TaskType: "t", TaskTypeVersion: -3, PluginVersion: "v1"}, id: client.JobID("\x00job")}
	type state struct{ ResourceMeta any }
	b, err := encodeGob(state{meta})
	require.NoError(t, err)
	var back state
	require.NoError(t, gob.NewDecoder(bytes.NewReader(b)).Decode(&back))
	require.Equal(t, meta, back.ResourceMeta)
	require.ErrorIs(t, (&resourceMeta{}).GobDecode([]byte{1}), errEnvelope)
	whole, err := meta.GobEncode()
	require.NoError(t, err)
	require.ErrorIs(t, (&resourceMeta{}).GobDecode(whole[:len(whole)-2]), errEnvelope)
}

func TestInnerState(t *testing.T) {
	t.Parallel()
	type s struct{ A, B int }
	first := &innerState{}
	require.NoError(t, first.Put(1, &s{1, 2}))
	require.True(t, first.changed)
	second := &innerState{version: 1, old: first.written}
	var got s
	v, err := second.Get(&got)
	require.NoError(t, err)
	require.EqualValues(t, 1, v)
	require.Equal(t, s{1, 2}, got)
	require.NoError(t, second.Put(1, &s{1, 2}))
	require.False(t, second.changed)
	require.NoError(t, second.Put(1, &s{1, 3}))
	require.True(t, second.changed)
	require.NoError(t, second.Reset())
	require.True(t, second.changed)
	require.Nil(t, second.written)
}
