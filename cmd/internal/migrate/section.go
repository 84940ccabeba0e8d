package migrate

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/flyte-backend/flyte-backend/go/tasks/config"
)

// words are how the two old sections call the same things. The older one is from before connectors had that name.
type words struct {
	section, defaults, deployments, forTypes string
	// timeout is the time limit of the default deployment's calls unless it has one of its own.
	timeout time.Duration
}

var (
	connector = words{"connector-service", "defaultConnector", "connectors", "connectorForTaskTypes", 10 * time.Second}
	agent     = words{"agent-service", "defaultAgent", "agents", "agentForTaskTypes", 3 * time.Second}
)

// calls are the names of calls in the old sections' timeouts.
var calls = map[string]string{
	"createtask": config.CallCreate, "gettask": config.CallGet, "deletetask": config.CallDelete,
	"executetasksync": config.CallExecute, "listagents": config.CallList, "listconnectors": config.CallList,
}

// object is a YAML mapping whose keys have no case, as in propeller.
type object map[string]any

// objectOf makes one of a mapping, or of a list of them, which propeller takes for the same and Flyte's documents write. It is
// empty when v is neither.
func objectOf(v any) object {
	out := object{}
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			out[strings.ToLower(k)] = value
		}
	case []any:
		for _, item := range v {
			maps.Copy(out, objectOf(item))
		}
	}
	return out
}

func (o object) get(key string) any { return o[strings.ToLower(key)] }

func (o object) has(key string) bool { _, ok := o[strings.ToLower(key)]; return ok }

func (o object) text(key string) string {
	if v := o.get(key); v != nil {
		return fmt.Sprint(v)
	}
	return ""
}

// pair is a key and its value: the new section is written in an order for people.
type pair struct {
	key   string
	value any
}

type section []pair

// MarshalYAML keeps the order.
func (s section) MarshalYAML() (any, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, p := range s {
		key, value := &yaml.Node{}, &yaml.Node{}
		if err := key.Encode(p.key); err != nil {
			return nil, err
		}
		if err := value.Encode(p.value); err != nil {
			return nil, err
		}
		n.Content = append(n.Content, key, value)
	}
	return n, nil
}

// migration is the new section, and what there is to say of it.
type migration struct {
	words
	notes []string
	// names are the new names of deployments by their old ones, in small letters.
	names map[string]string
}

func (m *migration) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

// object is a part of the old section. What stands there and is no mapping is left out.
func (m *migration) object(where string, v any) object {
	o := objectOf(v)
	if len(o) == 0 && v != nil && !emptyMapping(v) {
		m.note("%s.%s is no mapping, and is left out: %v", m.section, where, v)
	}
	return o
}

func emptyMapping(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// duration is the text of one. What is none is left out.
func (m *migration) duration(where string, v any) string {
	if v == nil {
		return ""
	}
	text := fmt.Sprint(v)
	if _, err := time.ParseDuration(text); err != nil {
		m.note("%s.%s: %s is no duration such as 10s, and is left out", m.section, where, text)
		return ""
	}
	return text
}

// defaultTimeout is the new section's.
var defaultTimeout = (&config.Deployment{}).Timeout(config.CallGet)

// convert makes the new section of an old one.
func (m *migration) convert(old object) section {
	m.names = map[string]string{}
	out := section{{"enable_backend_flytekit_plugin_system", false}}
	deployments := section{}
	if d := m.object(m.defaults, old.get(m.defaults)); d.text("endpoint") != "" {
		// The old default deployment speaks plain text unless told otherwise, as no other does.
		deployments = append(deployments, pair{config.DefaultDeployment, m.deployment(m.defaults, d, true)})
	} else {
		m.note("%s.%s has no endpoint, so that there is no deployment for types that no other one lists", m.section, m.defaults)
	}
	listed := m.object(m.deployments, old.get(m.deployments))
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		where := m.deployments + "." + name
		d := m.object(where, listed[name])
		if d.text("endpoint") == "" {
			m.note("%s.%s has no endpoint, and is left out", m.section, where)
			continue
		}
		mine := m.rename(name)
		deployments = append(deployments, pair{mine, m.deployment(where, d, false)})
	}
	out = append(out, pair{"deployments", deployments})
	if routes := m.routes(m.object(m.forTypes, old.get(m.forTypes))); len(routes) > 0 {
		out = append(out, pair{"routes", routes})
	}
	if types, ok := old.get("supportedTaskTypes").([]any); ok && len(types) > 0 {
		out = append(out, pair{"taskTypes", types})
		m.note("supportedTaskTypes became taskTypes: types of a service that answers at start are claimed without being named")
	}
	if old.has("pollInterval") {
		if interval := m.duration("pollInterval", old.get("pollInterval")); interval != "" {
			out = append(out, pair{"discoveryInterval", interval})
			m.note("pollInterval became discoveryInterval: how often services are asked what they serve. How often jobs are polled is webApi.caching.resyncInterval, in both sections")
		}
	}
	if web := m.webAPI(m.object("webApi", old.get("webApi"))); len(web) > 0 {
		out = append(out, pair{"webApi", web})
	}
	if old.has("resourceConstraints") {
		m.note("resourceConstraints has no counterpart: quotas by project or namespace are not kept. webApi.resourceQuotas limits a deployment's jobs in all")
	}
	m.unknown(old)
	return out
}

// label is what a deployment may be called.
var label = regexp.MustCompile(`[^a-z0-9-]+`)

func (m *migration) rename(name string) string {
	mine := strings.Trim(label.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if mine == "" || mine == config.DefaultDeployment {
		mine = strings.Trim("service-"+mine, "-")
	}
	for taken := true; taken; {
		taken = false
		for _, other := range m.names {
			if other == mine {
				mine += "-2"
				taken = true
			}
		}
	}
	if mine != name {
		m.note("deployment %q is called %q: a name is a lower-case label of letters, digits and -", name, mine)
	}
	m.names[strings.ToLower(name)] = mine
	return mine
}

func (m *migration) deployment(where string, d object, insecure bool) section {
	out := section{{"endpoint", d.text("endpoint")}}
	if d.has("insecure") {
		insecure, _ = strconv.ParseBool(d.text("insecure"))
	}
	if insecure {
		out = append(out, pair{"insecure", true})
	}
	t := m.duration(where+".defaultTimeout", d.get("defaultTimeout"))
	if t == "" && where == m.defaults {
		t = m.timeout.String()
	}
	switch t {
	case defaultTimeout.String():
	case "":
		m.note("%s.%s has no defaultTimeout, which meant no limit; here it means %s", m.section, where, defaultTimeout)
	default:
		out = append(out, pair{"defaultTimeout", t})
	}
	limits := section{}
	timeouts := m.object(where+".timeouts", d.get("timeouts"))
	for _, name := range slices.Sorted(maps.Keys(timeouts)) {
		call, known := calls[name]
		if !known {
			m.note("%s.%s.timeouts.%s has no counterpart: the calls are create, get, delete, execute, list", m.section, where, name)
			continue
		}
		if limit := m.duration(where+".timeouts."+name, timeouts[name]); limit != "" {
			limits = append(limits, pair{call, limit})
		}
	}
	if len(limits) > 0 {
		out = append(out, pair{"timeouts", limits})
	}
	if s := d.text("defaultServiceConfig"); s != "" && !strings.Contains(s, "round_robin") {
		m.note("%s.%s.defaultServiceConfig has no counterpart: calls always go round the replicas that the endpoint's name resolves to", m.section, where)
	}
	return out
}

func (m *migration) routes(forTypes object) []section {
	var out []section
	for _, taskType := range slices.Sorted(maps.Keys(forTypes)) {
		to := fmt.Sprint(forTypes[taskType])
		mine, known := m.names[strings.ToLower(to)]
		if !known {
			m.note("%s.%s.%s goes to %q, which is no deployment, so that it went to the default one; it is left out", m.section, m.forTypes, taskType, to)
			continue
		}
		out = append(out, section{{"taskType", taskType}, {"deployment", mine}})
	}
	return out
}

// webAPI keeps what was set. Its defaults were for few tasks and are not taken over.
func (m *migration) webAPI(old object) section {
	out := section{}
	for _, key := range []string{"resourceQuotas", "readRateLimiter", "writeRateLimiter", "caching"} {
		if old.has(key) {
			out = append(out, pair{key, old.get(key)})
		}
	}
	if old.has("readRateLimiter") || old.has("caching") {
		m.note("webApi is kept as it was set. What is left out polls 10,000 running tasks every ten seconds; with few workers or a low rate they are polled more seldom")
	}
	if !old.has("resourceQuotas") {
		m.note("webApi.resourceQuotas was 1000 jobs for all by default; here there is no quota unless one is set")
	}
	return out
}

// unknown tells of keys that are none.
func (m *migration) unknown(old object) {
	known := []string{m.defaults, m.deployments, m.forTypes, "supportedTaskTypes", "pollInterval", "webApi", "resourceConstraints"}
	for _, key := range slices.Sorted(maps.Keys(old)) {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, key) }) {
			m.note("%s.%s is no key of that section, and is left out", m.section, key)
		}
	}
}
