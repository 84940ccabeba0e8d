package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/flyteorg/flyte/flytestdlib/config/files"
)

// CheckFile refuses what flytestdlib loses while it reads a file, so that [Config.Validate] never sees it:
//
//   - keys of the section that differ only in case, deployments above all: flytestdlib lower-cases keys and keeps one of
//     them, not always the same;
//   - deployments that say nothing (big: {}), which flytestdlib leaves out.
//
// It reads the file once and keeps nothing.
func CheckFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read config file: %w", err)
	}
	if err := CheckYAML(data); err != nil {
		return fmt.Errorf("config file %s: %w", path, err)
	}
	return nil
}

// CheckYAML does what [CheckFile] does, for a file's content. The error has a line for each problem.
func CheckYAML(data []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return fmt.Errorf("cannot parse YAML: %w", err)
	}
	if len(document.Content) == 0 {
		return nil
	}
	w := keyWalk{seen: map[*yaml.Node]bool{}}
	w.walk(nil, document.Content[0])
	return errors.Join(w.problems...)
}

// ConfigFiles gives the files that propeller reads when started with args (os.Args, with or without the program's name):
// those of --config, of which propeller heeds the last, and of every --file of its config command. As flytestdlib does,
// it takes patterns, and falls back to the usual places (./config.yaml, /etc/flyte/config/config.yaml) when they match
// nothing.
func ConfigFiles(args []string) []string {
	var config string
	var file []string
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if name != "--config" && name != "--file" {
			continue
		}
		if !hasValue {
			i++
			if i == len(args) {
				break
			}
			value = args[i]
		}
		if name == "--config" {
			config = value
		} else {
			file = append(file, value)
		}
	}

	var found []string
	if config != "" || len(file) == 0 {
		found = files.FindConfigFiles([]string{config})
	}
	if len(file) > 0 {
		for _, f := range files.FindConfigFiles(file) {
			if !slices.Contains(found, f) {
				found = append(found, f)
			}
		}
	}
	return found
}

// keyWalk goes through plugins.backend and collects keys that cannot both be kept.
type keyWalk struct {
	// seen holds what was visited: aliases may lead to one node by many ways, or round in a circle.
	seen     map[*yaml.Node]bool
	problems []error
}

func (w *keyWalk) walk(path []string, n *yaml.Node) {
	n = resolve(n)
	if n == nil || w.seen[n] {
		return
	}
	w.seen[n] = true

	var found []entry
	switch {
	case n.Kind == yaml.MappingNode:
		found = entries(n)
		w.emptyDeployments(path, found)
	case n.Kind == yaml.SequenceNode && isMap(path):
		for _, item := range n.Content {
			if item = resolve(item); item.Kind == yaml.MappingNode {
				found = append(found, entries(item)...)
			}
		}
	case n.Kind == yaml.SequenceNode:
		for i, item := range n.Content {
			w.walk(withIndex(path, i), item)
		}
	}

	first := map[string]*yaml.Node{}
	for _, e := range found {
		name := strings.ToLower(e.key.Value)
		if !relevant(path, name) {
			continue
		}
		if earlier, ok := first[name]; ok {
			w.conflict(path, earlier, e.key)
		} else {
			first[name] = e.key
		}
		w.walk(append(slices.Clone(path), name), e.value)
	}
}

func (w *keyWalk) conflict(path []string, a, b *yaml.Node) {
	how := "differ only in case, and flytestdlib lower-cases keys and keeps one of them at random"
	if a.Value == b.Value {
		how = "are the same key, of which only one can count"
	}
	dotted := strings.Join(path, ".")
	w.problems = append(w.problems, fmt.Errorf("%s (line %d) and %s (line %d) %s; rename or remove one of the two",
		joinPath(dotted, a.Value), a.Line, joinPath(dotted, b.Value), b.Line, how))
}

func (w *keyWalk) emptyDeployments(path []string, found []entry) {
	if strings.Join(path, ".") != sectionPath+".deployments" {
		return
	}
	for _, e := range found {
		if isEmpty(e.value, 0) {
			w.problems = append(w.problems, fmt.Errorf("%s.deployments.%s (line %d): says nothing, and flytestdlib leaves it out without a word; "+
				"give it an endpoint or remove it", sectionPath, e.key.Value, e.key.Line))
		}
	}
}

// relevant says whether a key matters: on the way to the section only the section's own names do.
func relevant(path []string, name string) bool {
	switch len(path) {
	case 0:
		return name == "plugins"
	case 1:
		return name == SectionKey
	}
	return true
}

// isMap says whether the section has a map at path, which flytestdlib also takes as a list of maps.
func isMap(path []string) bool {
	rest := path[min(len(path), 2):]
	switch len(rest) {
	case 1:
		return rest[0] == "deployments"
	case 2:
		return rest[0] == "webapi" && rest[1] == "resourcequotas"
	case 3:
		return rest[0] == "deployments" && rest[2] == "timeouts"
	}
	return false
}

type entry struct{ key, value *yaml.Node }

// entries gives the entries of a mapping with those that it merges in (<<), except those that it overrides by writing
// them again.
func entries(n *yaml.Node) []entry { return mergedEntries(n, 0) }

func mergedEntries(n *yaml.Node, depth int) []entry {
	var own []entry
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolve(n.Content[i+1])
		switch {
		case key.Tag != "!!merge":
			own = append(own, entry{key, n.Content[i+1]})
		case value != nil && value.Kind == yaml.SequenceNode:
			merged = append(merged, value.Content...)
		default:
			merged = append(merged, value)
		}
	}
	if depth > maxDepth {
		return own
	}
	for _, m := range merged {
		if m = resolve(m); m == nil || m.Kind != yaml.MappingNode {
			continue
		}
		for _, e := range mergedEntries(m, depth+1) {
			if !slices.ContainsFunc(own, func(o entry) bool { return o.key.Value == e.key.Value }) {
				own = append(own, e)
			}
		}
	}
	return own
}

// maxDepth bounds how far merges and nested mappings are followed where an alias could lead round in a circle.
const maxDepth = 20

// isEmpty says whether nothing is left of n once viper has flattened it: it drops nulls and mappings without leaves.
func isEmpty(n *yaml.Node, depth int) bool {
	n = resolve(n)
	switch {
	case n == nil || depth > maxDepth:
		return false
	case n.Kind == yaml.MappingNode:
		return !slices.ContainsFunc(entries(n), func(e entry) bool { return !isEmpty(e.value, depth+1) })
	}
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

func resolve(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func withIndex(path []string, i int) []string {
	indexed := slices.Clone(path)
	if len(indexed) > 0 {
		indexed[len(indexed)-1] += fmt.Sprintf("[%d]", i)
	}
	return indexed
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
