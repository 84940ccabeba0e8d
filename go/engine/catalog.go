package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/datacatalog"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/catalog"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/io"
	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/ioutils"
	propellercatalog "github.com/flyteorg/flyte/flytepropeller/pkg/controller/nodes/catalog/datacatalog"
)

const kindCatalog = "catalog"

// cache stands for datacatalog: the outputs of tasks that are to be cached, by dataset (task, cache version, interface) and
// by a hash of the inputs, both made by propeller's own code. The real one keeps every artifact that a tag ever named and
// can forget by age; here the last one stays for as long as the state.
type cache struct {
	records *records

	mu           sync.Mutex
	reservations map[string]*datacatalog.Reservation
}

var _ catalog.Client = (*cache)(nil)

func newCache(r *records) *cache {
	return &cache{records: r, reservations: map[string]*datacatalog.Reservation{}}
}

// entryOf finds where a task's outputs belong.
func entryOf(ctx context.Context, key catalog.Key) (*datacatalog.DatasetID, *datacatalog.Tag, error) {
	dataset, err := propellercatalog.GenerateDatasetIDForTask(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	inputs := &core.LiteralMap{}
	if len(key.TypedInterface.GetInputs().GetVariables()) > 0 {
		if inputs, err = key.InputReader.Get(ctx); err != nil {
			return nil, nil, fmt.Errorf("cannot read the inputs that the cache is asked for: %w", err)
		}
	}
	tag, err := propellercatalog.GenerateArtifactTagName(ctx, inputs, key.CacheIgnoreInputVars)
	return dataset, &datacatalog.Tag{Name: tag, Dataset: dataset}, err
}

func recordKey(dataset *datacatalog.DatasetID, tag string) string {
	return fmt.Sprintf("%s/%s/%s/%s/%s", dataset.GetProject(), dataset.GetDomain(), dataset.GetName(), dataset.GetVersion(), tag)
}

// Get gives the outputs that were kept, or a NotFound error.
func (c *cache) Get(ctx context.Context, key catalog.Key) (catalog.Entry, error) {
	dataset, tag, err := entryOf(ctx, key)
	if err != nil {
		return catalog.Entry{}, err
	}
	data, ok := c.records.get(kindCatalog, recordKey(dataset, tag.GetName()))
	if !ok {
		return catalog.Entry{}, status.Error(codes.NotFound, "nothing is cached for these inputs")
	}
	artifact := &datacatalog.Artifact{}
	if err := proto.Unmarshal(data, artifact); err != nil {
		return catalog.Entry{}, status.Errorf(codes.NotFound, "what is cached for these inputs cannot be read: %v", err)
	}
	tag.ArtifactId = artifact.GetId()
	source, err := propellercatalog.GetSourceFromMetadata(nil, artifact.GetMetadata(), key.Identifier)
	if err != nil {
		return catalog.Entry{}, err
	}
	outputs, err := propellercatalog.GenerateTaskOutputsFromArtifact(key.Identifier, key.TypedInterface, artifact)
	if err != nil {
		return catalog.Entry{}, status.Errorf(codes.NotFound, "what is cached for these inputs does not fit: %v", err)
	}
	return catalog.NewCatalogEntry(ioutils.NewInMemoryOutputReader(outputs, nil, nil),
		catalog.NewStatus(core.CatalogCacheStatus_CACHE_HIT, propellercatalog.EventCatalogMetadata(dataset, tag, source))), nil
}

// Put keeps a task's outputs.
func (c *cache) Put(ctx context.Context, key catalog.Key, reader io.OutputReader, md catalog.Metadata) (catalog.Status, error) {
	dataset, tag, err := entryOf(ctx, key)
	if err != nil {
		return catalog.NewPutFailureStatus(&key), err
	}
	outputs := &core.LiteralMap{}
	if len(key.TypedInterface.GetOutputs().GetVariables()) > 0 {
		var failure *io.ExecutionError
		outputs, failure, err = reader.Read(ctx)
		if err != nil {
			return catalog.NewPutFailureStatus(&key), err
		}
		if failure != nil {
			return catalog.NewPutFailureStatus(&key), fmt.Errorf("a task that failed is not cached: %s", failure.GetMessage())
		}
	}
	artifact := &datacatalog.Artifact{
		Id: string(uuid.NewUUID()), Dataset: dataset, CreatedAt: timestamppb.Now(),
		Metadata: propellercatalog.GetArtifactMetadataForSource(md.TaskExecutionIdentifier),
	}
	for name, value := range outputs.GetLiterals() {
		artifact.Data = append(artifact.Data, &datacatalog.ArtifactData{Name: name, Value: value})
	}
	data, err := proto.Marshal(artifact)
	if err == nil {
		err = c.records.put(kindCatalog, recordKey(dataset, tag.GetName()), data)
	}
	if err != nil {
		return catalog.NewPutFailureStatus(&key), err
	}
	tag.ArtifactId = artifact.GetId()
	return catalog.NewStatus(core.CatalogCacheStatus_CACHE_POPULATED, propellercatalog.EventCatalogMetadata(dataset, tag, nil)), nil
}

// Update is Put, for an execution that overwrites the cache.
func (c *cache) Update(ctx context.Context, key catalog.Key, reader io.OutputReader, md catalog.Metadata) (catalog.Status, error) {
	return c.Put(ctx, key, reader, md)
}

// GetOrExtendReservation reserves an entry for a task that fills it, so that others wait (cache_serialize). It gives the
// reservation that holds, which may be another's.
func (c *cache) GetOrExtendReservation(ctx context.Context, key catalog.Key, ownerID string, heartbeat time.Duration) (*datacatalog.Reservation, error) {
	dataset, tag, err := entryOf(ctx, key)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := recordKey(dataset, tag.GetName())
	if held, ok := c.reservations[at]; ok && held.GetOwnerId() != ownerID && held.GetExpiresAt().AsTime().After(time.Now()) {
		return held, nil
	}
	// Like datacatalog: three heartbeats may be missed.
	c.reservations[at] = &datacatalog.Reservation{
		ReservationId: &datacatalog.ReservationID{DatasetId: dataset, TagName: tag.GetName()},
		OwnerId:       ownerID, HeartbeatInterval: durationpb.New(heartbeat),
		ExpiresAt: timestamppb.New(time.Now().Add(3 * heartbeat)),
	}
	return c.reservations[at], nil
}

// ReleaseReservation ends a reservation that the owner holds.
func (c *cache) ReleaseReservation(ctx context.Context, key catalog.Key, ownerID string) error {
	dataset, tag, err := entryOf(ctx, key)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	at := recordKey(dataset, tag.GetName())
	if c.reservations[at].GetOwnerId() == ownerID {
		delete(c.reservations, at)
	}
	return nil
}
