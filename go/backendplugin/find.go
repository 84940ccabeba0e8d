package backendplugin

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/pluginversion"
)

// find gives the plugin for a task: of those of its type that can do what is asked, the version that the caller names, else
// the highest; one that names the template's version goes before one that takes any.
//
// A call about a job may leave the task type version out, since the job's plugin version is known: then one plugin that it can
// mean will do.
func (s *service) find(taskType, version string, taskTypeVersion int32, aboutJob bool, can func(*Plugin) bool) (*Plugin, error) {
	var best *Plugin
	var limited Plugins
	var bestExact, known bool
	for _, p := range s.plugins {
		if p.taskType != taskType || version != "" && p.version != version {
			continue
		}
		known = true
		exact := slices.Contains(p.taskTypeVersions, taskTypeVersion)
		if !can(p) {
			continue
		}
		if !exact && len(p.taskTypeVersions) > 0 {
			limited = append(limited, p)
			continue
		}
		if best == nil || exact && !bestExact || exact == bestExact && pluginversion.Compare(p.version, best.version) > 0 {
			best, bestExact = p, exact
		}
	}
	switch {
	case best != nil:
		return best, nil
	case aboutJob && taskTypeVersion == 0 && len(limited) == 1:
		return limited[0], nil
	case known:
		return nil, NewError(codes.NotFound, fmt.Errorf("the plugin for task type %q%s does not take this call for task type version %d",
			taskType, named(version), taskTypeVersion))
	default:
		return nil, NotFound("this service has no plugin for task type %q%s", short(taskType), named(version))
	}
}

func named(version string) string {
	if version == "" {
		return ""
	}
	return " in version " + short(version)
}

// short is a name as far as people look at it: callers may send names of megabytes.
func short(name string) string {
	const most = 200
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "…"
}
