// Package migrate is the command that turns the configuration of Flyte's connector plugin into this one's.
package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/cmd/internal/endpoint"
	"github.com/flyte-backend/flyte-backend/cmd/internal/exit"
	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// New makes the command `migrate`.
func New() *cobra.Command {
	var file string
	var write bool
	cmd := &cobra.Command{
		Use:   "migrate --config FILE",
		Short: "Turn the section of Flyte's connector plugin into plugins.backend",
		Long: "Reads plugins.connector-service (or the older plugins.agent-service) of propeller's configuration and prints the section\n" +
			"plugins.backend that calls the same services. What has no counterpart is told on standard error. The toggle in it is off:\n" +
			"`flyte-backend explain` says what would change before it is turned on.\n\n" +
			"No file is changed, unless --write is given: then the section is put beside the old one, and the rest of the file stays as it is.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return exit.BadInputf("--config is missing: name propeller's configuration")
			}
			r, err := migrate(cmd.Context(), file)
			if err != nil {
				return err
			}
			for _, n := range r.notes {
				_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "note:", n)
			}
			if !write {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "plugins:\n%s", r.block("  "))
				return err
			}
			if err := r.write(cmd.Context(), file); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s: plugins.backend is added, turned off. Next: flyte-backend explain --config %s\n", file, file)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "propeller's configuration, a YAML `FILE`")
	f.BoolVar(&write, "write", false, "add the section to the file")
	return cmd
}

// result is a new section for a file.
type result struct {
	text []byte
	// plugins and old are the keys of the file that the section goes below and beside.
	plugins, old *yaml.Node
	section      section
	notes        []string
}

// migrate reads the file and makes the section.
func migrate(ctx context.Context, file string) (*result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, exit.BadInputf("cannot read the configuration: %w", err)
	}
	if err := config.CheckYAML(text); err != nil {
		return nil, exit.BadInputf("%s: %w", file, err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, exit.BadInputf("%s: %w", file, err)
	}
	if len(document.Content) == 0 {
		return nil, exit.BadInputf("%s: is empty", file)
	}
	r := &result{text: text}
	var value *yaml.Node
	if _, value = member(document.Content[0], "plugins"); value == nil {
		return nil, elsewhere(exit.BadInputf("%s: has no section plugins", file), document.Content[0], text)
	}
	r.plugins = value
	if key, _ := member(value, config.SectionKey); key != nil {
		return nil, exit.Hint(exit.BadInputf("%s: has plugins.%s already, in line %d", file, config.SectionKey, key.Line), "flyte-backend explain --config %s says what it does", file)
	}
	m := &migration{words: connector}
	key, old := member(value, connector.section)
	if key == nil {
		m.words = agent
		key, old = member(value, agent.section)
	}
	if key == nil {
		return nil, elsewhere(exit.BadInputf("%s: has neither plugins.%s nor plugins.%s", file, connector.section, agent.section), document.Content[0], text)
	}
	r.old = key
	if other, _ := member(value, agent.section); other != nil && key != other {
		m.note("%s is there too, and is not looked at: take one of the two sections out of a copy of the file, and migrate that", agent.section)
	}
	var parsed map[string]any
	if err := old.Decode(&parsed); err != nil {
		return nil, exit.BadInputf("%s: plugins.%s is no section: %s", file, m.section, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	r.section = m.convert(objectOf(parsed))
	m.taskPlugins(document.Content[0])
	r.notes = m.notes
	if err := r.check(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// elsewhere adds where the section stands that is not where propeller would look for it, as in a chart's values or in a ConfigMap.
func elsewhere(err error, root *yaml.Node, text []byte) error {
	if path, line := find(root); path != "" {
		return exit.Hint(err, "%s is in line %d: this command takes propeller's own configuration, so copy `plugins` from there into a file of its own, "+
			"and put what is printed for that beside the old section", path, line)
	}
	documents := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	if documents.Decode(&first) == nil && documents.Decode(&second) == nil {
		return exit.Hint(err, "the file holds several documents, and propeller reads only the first")
	}
	return err
}

// find looks for an old section at any depth, also in texts that are YAML themselves.
func find(n *yaml.Node) (path string, line int) {
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "\n") {
		var inner yaml.Node
		if yaml.Unmarshal([]byte(n.Value), &inner) == nil && len(inner.Content) > 0 {
			path, line = find(inner.Content[0])
		}
		return path, n.Line + line // the text begins in the line after its key's
	}
	if n.Kind != yaml.MappingNode {
		return "", 0
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value == connector.section || key.Value == agent.section {
			return key.Value, key.Line
		}
		if path, line := find(value); path != "" {
			return key.Value + "." + path, line
		}
	}
	return "", 0
}

// member finds a key of a mapping, without case.
func member(n *yaml.Node, key string) (k, v *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if strings.EqualFold(n.Content[i].Value, key) {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// taskPlugins tells of what elsewhere in the file keeps tasks with the old plugin.
func (m *migration) taskPlugins(root *yaml.Node) {
	_, tasks := member(root, "tasks")
	if tasks == nil {
		return
	}
	_, plugins := member(tasks, "task-plugins")
	if plugins == nil {
		return
	}
	if _, defaults := member(plugins, "default-for-task-types"); defaults != nil {
		var kept []string
		var parsed any
		_ = defaults.Decode(&parsed) // what it is not, propeller tells of
		for taskType, plugin := range objectOf(parsed) {
			if strings.EqualFold(strings.TrimSpace(fmt.Sprint(plugin)), m.section) {
				kept = append(kept, taskType)
			}
		}
		if len(kept) > 0 {
			slices.Sort(kept)
			m.note("tasks.task-plugins.default-for-task-types gives %s to %s, which wins over plugins.backend: take these lines out when the toggle is turned on", strings.Join(kept, ", "), m.section)
		}
	}
	if _, enabled := member(plugins, "enabled-plugins"); enabled != nil {
		if slices.ContainsFunc(enabled.Content, func(n *yaml.Node) bool { return strings.EqualFold(n.Value, m.section) }) {
			m.note("leave %s in tasks.task-plugins.enabled-plugins until the tasks that it runs have ended: they keep their state there. plugins.backend is enabled by its toggle", m.section)
		}
	}
}

// block is the section as lines that are indented so.
func (r *result) block(indent string) string {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(section{{config.SectionKey, r.section}}); err != nil {
		panic(err) // it is made of texts, numbers and lists
	}
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString(indent + line)
	}
	return out.String()
}

// check holds the section against propeller's own rules.
func (r *result) check(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "flyte-backend-migrate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "section.yaml")
	if err := os.WriteFile(file, []byte("plugins:\n"+r.block("  ")), 0o600); err != nil {
		return err
	}
	cfg, err := endpoint.Load(ctx, []string{file})
	if err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		r.notes = append(r.notes, "the section is to be set right before the toggle is turned on: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

// write puts the section into the file, in front of the old one, and changes nothing else.
func (r *result) write(ctx context.Context, file string) error {
	if r.plugins.Style&yaml.FlowStyle != 0 || r.old.Column < 2 {
		return exit.BadInputf("%s: plugins stands in one line, where nothing can be added: put what this command prints without --write there by hand", file)
	}
	lines := bytes.SplitAfter(r.text, []byte("\n"))
	at := r.old.Line - 1
	for at > 0 && bytes.HasPrefix(bytes.TrimSpace(lines[at-1]), []byte("#")) { // comments that belong to the old section
		at--
	}
	block := r.block(strings.Repeat(" ", r.old.Column-1))
	if bytes.HasSuffix(lines[at], []byte("\r\n")) {
		block = strings.ReplaceAll(block, "\n", "\r\n")
	}
	out := bytes.Join(lines[:at], nil)
	out = append(out, block...)
	out = append(out, bytes.Join(lines[at:], nil)...)

	file, err := filepath.EvalSymlinks(file) // a link stays one
	if err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	beside, err := os.CreateTemp(filepath.Dir(file), ".migrate-*.yaml")
	if err != nil {
		return fmt.Errorf("cannot write beside %s: %w", file, err)
	}
	defer func() { _ = os.Remove(beside.Name()) }() // it is gone when all went well
	_, err = beside.Write(out)
	if err = errors.Join(err, beside.Chmod(info.Mode().Perm()), beside.Sync(), beside.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", beside.Name(), err)
	}
	if _, err := endpoint.Load(ctx, []string{beside.Name()}); err != nil {
		return fmt.Errorf("the file would not be readable any more, and stays as it was: %w", err)
	}
	return os.Rename(beside.Name(), file)
}
