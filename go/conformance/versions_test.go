package conformance_test

import (
	"context"
	"net"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/flyte-backend/flyte-backend/go/conformance"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/admin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/service"
)

// lists is a service that lists one task type for some versions, and does nothing else.
type lists struct {
	service.UnimplementedAgentMetadataServiceServer
	versions []int32
}

func (l lists) ListAgents(context.Context, *admin.ListAgentsRequest) (*admin.ListAgentsResponse, error) {
	a := &admin.Agent{Name: "n"}
	for _, v := range l.versions {
		a.SupportedTaskCategories = append(a.SupportedTaskCategories, &admin.TaskCategory{Name: "t", Version: v})
	}
	return &admin.ListAgentsResponse{Agents: []*admin.Agent{a}}, nil
}

// TestAnyVersionAmongOthers: an agent that lists 0 takes any version, whatever else it lists, as flytekit's do that have a connector
// for one version more.
func TestAnyVersionAmongOthers(t *testing.T) {
	t.Parallel()
	for _, versions := range [][]int32{{0, 2}, {2, 0}} {
		lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		s := grpc.NewServer()
		service.RegisterAgentMetadataServiceServer(s, lists{versions: versions})
		go func() { _ = s.Serve(lis) }()
		t.Cleanup(s.Stop)
		report, err := conformance.Check(t.Context(), conformance.Options{
			Endpoint: lis.Addr().String(), Insecure: true, Run: regexp.MustCompile("^versions/unlisted-task-type-version$"),
		}, nil)
		require.NoError(t, err)
		require.Len(t, report.Results, 1)
		require.Contains(t, report.Results[0].Reason, "listed for any task type version")
	}
}
