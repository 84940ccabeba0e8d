package backend

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/flyteorg/flyte/flyteplugins/go/tasks/pluginmachinery/core"
)

// identity names a task attempt completely.
type identity struct {
	project, domain, execution, node, generated string
	attempt                                     uint32
	// index is a sub-task's place in its map; empty for other tasks.
	index string
}

func identityOf(meta core.TaskExecutionMetadata) identity {
	tid := meta.GetTaskExecutionID()
	id := tid.GetID()
	exec := id.GetNodeExecutionId().GetExecutionId()
	index, _ := arrayIndex(meta)
	return identity{
		project: exec.GetProject(), domain: exec.GetDomain(), execution: exec.GetName(),
		node: tid.GetUniqueNodeID(), attempt: id.GetRetryAttempt(),
		generated: tid.GetGeneratedName(), index: index,
	}
}

// key is the identity's SHA-256 as 64 hexadecimal characters: the machinery's cache key and the idempotency key in one.
// The generated name alone would not do: it holds neither project nor domain, and is a 32-bit hash when it is long. So is the
// node of a sub-task below a node with a long name, and two of 10,000 such hashes are the same once in a hundred maps.
func (i identity) key() string {
	h := sha256.New()
	parts := []string{i.project, i.domain, i.execution, i.node, strconv.FormatUint(uint64(i.attempt), 10), i.generated}
	if i.index != "" {
		parts = append(parts, i.index)
	}
	for _, part := range parts {
		// The length in front keeps two identities apart whose parts only join to the same text.
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (i identity) String() string {
	return fmt.Sprintf("%s/%s/%s/%s/%d", i.project, i.domain, i.execution, i.node, i.attempt)
}

// qualifiedMetadata gives the machinery a generated name that no other task has. It also carries the handling through the
// machinery, which hands a task's metadata on to every call but Get.
type qualifiedMetadata struct {
	core.TaskExecutionMetadata
	name string
	h    *handling
}

func (m qualifiedMetadata) GetTaskExecutionID() core.TaskExecutionID {
	return qualifiedID{m.TaskExecutionMetadata.GetTaskExecutionID(), m.name}
}

type qualifiedID struct {
	core.TaskExecutionID
	name string
}

func (id qualifiedID) GetGeneratedName() string { return id.name }
