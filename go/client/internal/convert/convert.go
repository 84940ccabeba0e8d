// Package convert has what the transports share of turning package client's values into flyteidl's.
package convert

import (
	"regexp"

	"github.com/flyte-backend/flyte-backend/go/client"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
)

// PluginVersion is what a route can name (package config has the same rule), what gRPC metadata can carry, and what a path
// of a URL can be made of.
var PluginVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// Metadata gives flyteidl's form of what propeller knows of a task execution.
func Metadata(m client.Metadata) *admin.TaskExecutionMetadata {
	return &admin.TaskExecutionMetadata{
		TaskExecutionId:               m.TaskExecutionID,
		Namespace:                     m.Namespace,
		Labels:                        m.Labels,
		Annotations:                   m.Annotations,
		K8SServiceAccount:             m.K8sServiceAccount,
		EnvironmentVariables:          m.EnvironmentVariables,
		Identity:                      m.Identity,
		MaxAttempts:                   m.MaxAttempts,
		Interruptible:                 m.Interruptible,
		InterruptibleFailureThreshold: m.InterruptibleFailureThreshold,
		Overrides:                     m.Overrides,
	}
}
