package backend

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// resourceNames are the Kubernetes resources that flyteidl has a name for.
var resourceNames = map[v1.ResourceName]core.Resources_ResourceName{
	v1.ResourceCPU:              core.Resources_CPU,
	v1.ResourceMemory:           core.Resources_MEMORY,
	v1.ResourceStorage:          core.Resources_STORAGE,
	v1.ResourceEphemeralStorage: core.Resources_EPHEMERAL_STORAGE,
	"nvidia.com/gpu":            core.Resources_GPU,
}

func resourceEntries(list v1.ResourceList) []*core.Resources_ResourceEntry {
	var out []*core.Resources_ResourceEntry
	for name, quantity := range list {
		if known, ok := resourceNames[name]; ok && !quantity.IsZero() {
			out = append(out, &core.Resources_ResourceEntry{Name: known, Value: quantity.String()})
		}
	}
	slices.SortFunc(out, func(a, b *core.Resources_ResourceEntry) int { return int(a.GetName()) - int(b.GetName()) })
	return out
}
