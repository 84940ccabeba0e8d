package explain

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
	stdconfig "github.com/flyteorg/flyte/flytestdlib/config"
	"github.com/flyteorg/flyte/flytestdlib/config/viper"
)

// invalid is how the decoder tells of keys that it has no use for, by the place of the mapping that they are in.
var invalid = regexp.MustCompile(`(?m)^'(.*)' has invalid keys: (.*)$`)

// unknownKeys tells of keys in plugins.backend that mean nothing, which propeller passes over without a word.
func unknownKeys(ctx context.Context, files []string) ([]string, error) {
	dir, err := os.MkdirTemp("", "flyte-backend-explain-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var out []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var root any
		if err := yaml.Unmarshal(text, &root); err != nil {
			return nil, err
		}
		// Alone, the section is all that a strict reader can find fault with.
		alone, err := yaml.Marshal(map[string]any{"plugins": map[string]any{config.SectionKey: endpoint.Under(endpoint.Under(root, "plugins"), config.SectionKey)}})
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "section.yaml")
		if err := os.WriteFile(path, alone, 0o600); err != nil {
			return nil, err
		}
		strict := stdconfig.NewRootSection()
		strict.MustRegisterSection("plugins", &struct{}{}).MustRegisterSection(config.SectionKey, config.Default())
		err = viper.NewAccessor(stdconfig.Options{SearchPaths: []string{path}, RootSection: strict, StrictMode: true}).UpdateConfig(ctx)
		if err == nil {
			continue
		}
		for _, m := range invalid.FindAllStringSubmatch(err.Error(), -1) {
			place := strings.NewReplacer("[", ".", "]", "").Replace(strings.Join([]string{"plugins", config.SectionKey, m[1]}, "."))
			out = append(out, fmt.Sprintf("%s: %s has keys that mean nothing, and that propeller passes over: %s", file, strings.TrimSuffix(place, "."), m[2]))
		}
	}
	return out, nil
}
