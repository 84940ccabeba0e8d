package convert_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/flyte-backend/flyte-backend/go/client/internal/convert"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// What is taken for a version must be what a route can name, or no route could ever choose it.
func TestPluginVersionRuleIsTheConfigurations(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"v1", "1.2.3", "2024_01+x-y", "V", "-v", ".v", "a b", "é", "a/b", strings.Repeat("a", 64), strings.Repeat("a", 65)} {
		c := config.Default()
		c.Routes = []config.Route{{TaskType: "t", Deployment: config.DefaultDeployment, PluginVersion: v}}
		assert.Equal(t, c.Validate() == nil, convert.PluginVersion.MatchString(v), v)
	}
}
