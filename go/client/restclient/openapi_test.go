package restclient

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/flyte-backend/flyte-backend/go/backendplugin/rest"
	"github.com/flyte-backend/flyte-backend/go/client"
)

// contract is api/openapi.yaml, as the SDK serves it.
type contract struct {
	t        *testing.T
	document map[string]any
	compiler *jsonschema.Compiler
}

func openAPI(t *testing.T) *contract {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(rest.OpenAPI))
	require.NoError(t, err)
	c := &contract{t: t, compiler: jsonschema.NewCompiler()}
	c.compiler.AssertFormat()
	require.NoError(t, c.compiler.AddResource("file:///openapi.json", document))
	var ok bool
	c.document, ok = document.(map[string]any)
	require.True(t, ok)
	return c
}

// at follows a JSON pointer, and the references on its way; it gives where that ends too.
func (c *contract) at(pointer string) (value any, end string) {
	c.t.Helper()
	value, end = c.document, ""
	for _, part := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch v := value.(type) {
		case map[string]any:
			require.Contains(c.t, v, part, "%s", pointer)
			value = v[part]
		case []any:
			n, err := strconv.Atoi(part)
			require.NoError(c.t, err)
			value = v[n]
		default:
			c.t.Fatalf("there is no %s", pointer)
		}
		end += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(part)
		if m, ok := value.(map[string]any); ok && m["$ref"] != nil {
			ref, _ := m["$ref"].(string)
			value, end = c.at(strings.TrimPrefix(ref, "#"))
		}
	}
	return value, end
}

func (c *contract) object(pointer string) map[string]any {
	c.t.Helper()
	v, _ := c.at(pointer)
	m, ok := v.(map[string]any)
	require.True(c.t, ok, pointer)
	return m
}

// valid holds a value against the schema at a pointer.
func (c *contract) valid(pointer string, value any, about string) {
	c.t.Helper()
	_, end := c.at(pointer)
	s, err := c.compiler.Compile("file:///openapi.json#" + (&url.URL{Path: end}).EscapedPath())
	require.NoError(c.t, err)
	require.NoError(c.t, s.Validate(value), about)
}

func textOf(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return string(raw)
}

func escape(part string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(part)
}

// operation finds the path and method of a request among those of the contract.
func (c *contract) operation(method, path string) (pointer string) {
	c.t.Helper()
	for template := range c.object("/paths") {
		pattern := "^" + regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(template), `[^/]+`) + "$"
		pointer := "/paths/" + escape(template)
		if regexp.MustCompile(pattern).MatchString(path) && c.object(pointer)[strings.ToLower(method)] != nil {
			return pointer + "/" + strings.ToLower(method)
		}
	}
	c.t.Fatalf("%s %s is no call of the contract", method, path)
	return ""
}

// holds checks a request by the contract: its call, its parameters, and its body.
func (c *contract) holds(r call) {
	c.t.Helper()
	op := c.operation(r.method, r.path)
	about := r.method + " " + r.path
	declared := map[string]bool{}
	for _, owner := range []string{op, op[:strings.LastIndex(op, "/")]} {
		list, _ := c.object(owner)["parameters"].([]any)
		for i := range list {
			at := owner + "/parameters/" + strconv.Itoa(i)
			p := c.object(at)
			name, _ := p["name"].(string)
			var values []string
			switch p["in"] {
			case "query":
				declared[name] = true
				values = r.query[name]
			case "header":
				values = r.header.Values(name)
			default:
				continue
			}
			require.LessOrEqual(c.t, len(values), 1, "%s: %s", about, name)
			require.False(c.t, p["required"] == true && len(values) == 0, "%s: %s is missing", about, name)
			for _, v := range values {
				var value any = v
				if c.object(at + "/schema")["type"] == "integer" {
					n, err := strconv.Atoi(v)
					require.NoError(c.t, err, about)
					value = n
				}
				c.valid(at+"/schema", value, about+": "+name)
			}
		}
	}
	for name := range r.query {
		require.True(c.t, declared[name], "%s: the query's %s is none of the contract's", about, name)
	}
	if c.object(op)["requestBody"] == nil {
		require.Empty(c.t, r.body, about)
		return
	}
	require.Equal(c.t, []string{jsonType}, r.header.Values("Content-Type"), about)
	body, err := jsonschema.UnmarshalJSON(strings.NewReader(r.body))
	require.NoError(c.t, err, about)
	c.valid(op+"/requestBody/content/application~1json/schema", body, about)
}

// TestRequestsByTheContract: whatever the client sends is what api/openapi.yaml says.
func TestRequestsByTheContract(t *testing.T) {
	t.Parallel()
	c := openAPI(t)
	s, url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		switch {
		case strings.HasSuffix(r.URL.Path, "/poll"):
			_, _ = w.Write([]byte(`{"results": [{"job": ` + running + `}]}`))
		case r.Method == http.MethodPut:
			_, _ = w.Write([]byte(`{"job_id": "j"}`))
		case r.URL.Path == root:
			_, _ = w.Write([]byte(`{"plugins": []}`))
		default:
			_, _ = w.Write([]byte(running))
		}
	}), nil, nil)
	conn := connectPlain(t, url)
	for _, id := range []string{"j", "eu/job 7?&=ü", "\xff\xfe", strings.Repeat("x", 5000)} {
		ref := client.JobRef{Target: target, ID: client.JobID(id), OutputPrefix: "s3://bucket/0"}
		_, err := conn.Get(t.Context(), ref)
		require.NoError(t, err)
		require.NoError(t, conn.Delete(t.Context(), ref))
	}
	for _, taskType := range []string{"my_task", "a/b c%ü"} {
		req := newRequest()
		req.Target.TaskType, req.Template.Type = taskType, taskType
		_, err := conn.Create(t.Context(), req)
		require.NoError(t, err)
		_, _ = conn.Execute(t.Context(), req)
	}
	_, err := conn.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, 13, s.count())
	seen := map[string]bool{}
	for _, r := range s.calls {
		c.holds(r)
		seen[c.operation(r.method, r.path)] = true
	}
	require.Len(t, seen, 7, "all calls but logs and metrics, which propeller does not make: %v", seen)
}

// TestAnswersByTheContract: the client takes every example of the contract for what it is: an answer, or the error of its code.
func TestAnswersByTheContract(t *testing.T) {
	t.Parallel()
	c := openAPI(t)
	ref := client.JobRef{Target: target, ID: client.JobID("eu/query-7")}
	calls := map[string]func(*Conn) error{
		"/plugins/v1/get":                                func(conn *Conn) error { _, err := conn.List(t.Context()); return err },
		"/plugins/v1/{task_type}/{version}/put":          func(conn *Conn) error { _, err := conn.Create(t.Context(), newRequest()); return err },
		"/plugins/v1/{task_type}/{version}/get":          func(conn *Conn) error { _, err := conn.Get(t.Context(), ref); return err },
		"/plugins/v1/{task_type}/{version}/delete":       func(conn *Conn) error { return conn.Delete(t.Context(), ref) },
		"/plugins/v1/{task_type}/{version}/execute/post": func(conn *Conn) error { _, err := conn.Execute(t.Context(), newRequest()); return err },
	}
	examples := 0
	for name, do := range calls {
		path, method := name[:strings.LastIndex(name, "/")], name[strings.LastIndex(name, "/")+1:]
		responses := "/paths/" + escape(path) + "/" + method + "/responses"
		for status := range c.object(responses) {
			content := responses + "/" + status + "/content/application~1json/examples"
			for example := range c.object(content) {
				examples++
				value, _ := c.at(content + "/" + escape(example) + "/value")
				body := textOf(t, value)
				code, err := strconv.Atoi(status)
				require.NoError(t, err)
				_, url := serve(t, answering(code, jsonType, body), nil, nil)
				err = do(connectPlain(t, url))
				about := name + " " + status + " " + example
				m, _ := value.(map[string]any)
				errorCode, _ := m["error_code"].(string)
				if code == http.StatusOK || method == "delete" && errorCode == "NOT_FOUND" {
					require.NoError(t, err, about)
					continue
				}
				var e *client.Error
				require.ErrorAs(t, err, &e, about)
				require.True(t, e.FromService, about)
				want, known := codeNamed(errorCode)
				require.True(t, known, about)
				require.Equal(t, want, e.Code, about)
				if code == http.StatusRequestEntityTooLarge {
					require.True(t, e.TooLarge, about)
				} else {
					require.Equal(t, client.ClassOf(want), e.Class, about)
				}
			}
		}
	}
	require.Greater(t, examples, 50)
}
