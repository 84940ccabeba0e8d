package backendplugin_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/big"
	"math/rand"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/shamaton/msgpack/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyte-backend/flyte-backend/go/backendplugin"
	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

type colour string

type point struct {
	X     int64    `flyte:"x"`
	Y     float64  `flyte:"y"`
	Names []string `flyte:"names"`
	Next  *point   `flyte:"next"`
}

// everything has a field of every kind of value.
type everything struct {
	Int      int64                      `flyte:"int"`
	Small    int8                       `flyte:"small"`
	Uint     uint32                     `flyte:"uint"`
	Float    float64                    `flyte:"float"`
	Float32  float32                    `flyte:"float32"`
	Text     string                     `flyte:"text"`
	Colour   colour                     `flyte:"colour"`
	Bool     bool                       `flyte:"bool"`
	At       time.Time                  `flyte:"at"`
	Lasting  time.Duration              `flyte:"lasting"`
	Bytes    []byte                     `flyte:"bytes"`
	List     []int64                    `flyte:"list"`
	Matrix   [][]float64                `flyte:"matrix"`
	Map      map[string]int64           `flyte:"map"`
	Maps     map[string]map[string]bool `flyte:"maps"`
	Maybe    *string                    `flyte:"maybe"`
	Point    point                      `flyte:"point"`
	Points   []point                    `flyte:"points"`
	Dict     map[string]any             `flyte:"dict"`
	Any      any                        `flyte:"any"`
	Blob     backendplugin.Blob         `flyte:"blob"`
	Folders  []backendplugin.Blob       `flyte:"folders"`
	Dataset  backendplugin.Dataset      `flyte:"dataset"`
	Schema   backendplugin.Schema       `flyte:"schema"`
	Binary   backendplugin.Binary       `flyte:"binary"`
	Failure  backendplugin.TaskFailure  `flyte:"failure"`
	Raw      *core.Literal              `flyte:"raw"`
	Optional int64                      `flyte:"optional,optional"`
	Named    int64
	Skipped  int `flyte:"-"`
	_        int
}

// Generate makes random values: what is random about types is left to quick, and what it cannot know is here.
func (everything) Generate(r *rand.Rand, size int) reflect.Value {
	value := func(v any) {
		x, ok := quick.Value(reflect.TypeOf(v).Elem(), r)
		if !ok {
			panic("no value")
		}
		reflect.ValueOf(v).Elem().Set(x)
	}
	e := everything{
		At:     time.Unix(r.Int63n(4e9), r.Int63n(1e9)).UTC(),
		List:   []int64{}, // an empty list comes back as one
		Matrix: [][]float64{{}, {r.NormFloat64(), math.Inf(1)}},
		Maps:   map[string]map[string]bool{"a": {"b": true}, "c": {}},
		Point:  point{X: r.Int63(), Y: 2, Names: []string{"n"}, Next: &point{Y: r.Float64(), Names: []string{}}},
		Points: []point{{Names: []string{}}, {X: -1, Y: r.NormFloat64(), Names: []string{"ä", ""}}},
		Dict: values{
			"int": r.Int63(), "whole float": 2.0, "text": "t", "none": nil, "bool": true, "bytes": []byte{0, 255},
			"list": []any{int64(1), "x", values{"deep": 1.5}}, "": values{},
		},
		Blob:    backendplugin.Blob{URI: "s3://b/f.csv", Format: "csv"},
		Folders: []backendplugin.Blob{{URI: "s3://b/f", Folder: true}},
		Dataset: backendplugin.Dataset{URI: "bq://t", Format: "parquet"},
		Schema:  backendplugin.Schema{URI: "s3://b/s"},
		Binary:  backendplugin.Binary{Tag: "t", Value: []byte("v")},
		Failure: backendplugin.TaskFailure{FailedNode: "n0", Message: "m"},
		Raw:     integer(r.Int63()),
	}
	for _, v := range []any{
		&e.Int, &e.Small, &e.Uint, &e.Float, &e.Float32, &e.Text, (*string)(&e.Colour), &e.Bool, (*int64)(&e.Lasting),
		&e.Maybe, &e.Optional, &e.Named,
	} {
		value(v)
	}
	e.Bytes = make([]byte, r.Intn(size+1))
	_, _ = r.Read(e.Bytes)
	for range size % 9 {
		e.List = append(e.List, r.Int63()-r.Int63())
	}
	e.Map = map[string]int64{}
	for i := range size % 40 {
		e.Map[string(rune('a'+i))] = r.Int63()
	}
	all := []any{
		nil, true, r.Int63(), r.NormFloat64(), "text", e.At, e.Lasting, []byte("b"), []any{int64(1), "a", nil}, e.Dict, e.Blob, e.Dataset, e.Schema, e.Binary, e.Failure,
	}
	e.Any = all[r.Intn(len(all))]
	return reflect.ValueOf(e)
}

// TestValuesRoundTrip: whatever goes out over the wire comes back the same, into a struct, and by way of a map of anything.
func TestValuesRoundTrip(t *testing.T) {
	check := func(want everything) bool {
		sent, err := backendplugin.EncodeOutputs(want)
		require.NoError(t, err)
		raw, err := proto.Marshal(sent)
		require.NoError(t, err)
		var got core.LiteralMap
		require.NoError(t, proto.Unmarshal(raw, &got))
		var back everything
		require.NoError(t, backendplugin.DecodeInputs(&got, &back))
		require.True(t, proto.Equal(want.Raw, back.Raw))
		plain := back
		plain.Raw = want.Raw // messages do not compare
		require.Equal(t, want, plain)

		for _, name := range []string{"map", "maps"} { // as a map of anything it would be a dict
			delete(got.Literals, name)
			delete(sent.Literals, name)
		}
		var all values
		require.NoError(t, backendplugin.DecodeInputs(&got, &all))
		again, err := backendplugin.EncodeOutputs(all)
		require.NoError(t, err)
		require.True(t, proto.Equal(sent, again), "what an any took is the same literal again")
		return true
	}
	require.NoError(t, quick.Check(check, &quick.Config{MaxCount: 300}))
}

func scalar(s *core.Scalar) *core.Literal {
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
}

func primitive(p *core.Primitive) *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}})
}

func packed(v any) *core.Literal {
	raw, err := msgpack.Marshal(v)
	if err != nil {
		panic(err)
	}
	return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: raw, Tag: "msgpack"}}})
}

func messagePack(raw []byte) *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: raw, Tag: "msgpack"}}})
}

func generic(v values) *core.Literal {
	s, err := structpb.NewStruct(v)
	if err != nil {
		panic(err)
	}
	return scalar(&core.Scalar{Value: &core.Scalar_Generic{Generic: s}})
}

func union(l *core.Literal) *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_Union{Union: &core.Union{Value: l}}})
}

func noneLiteral() *core.Literal {
	return scalar(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}})
}

// decoded gives what the literal becomes as a T.
func decoded[T any](l *core.Literal) (any, error) {
	var m map[string]T
	err := backendplugin.DecodeInputs(&core.LiteralMap{Literals: map[string]*core.Literal{"x": l}}, &m)
	return m["x"], err
}

func TestDecode(t *testing.T) {
	text := primitive(&core.Primitive{Value: &core.Primitive_StringValue{StringValue: "s"}})
	float := primitive(&core.Primitive{Value: &core.Primitive_FloatValue{FloatValue: 2}})
	offloaded := &core.Literal{Value: &core.Literal_OffloadedMetadata{OffloadedMetadata: &core.LiteralOffloadedMetadata{Uri: "s3://big"}}}
	seven := int64(7)
	for _, tt := range []struct {
		reason string
		decode func(*core.Literal) (any, error)
		of     *core.Literal
		want   any
		err    string
	}{
		{"a union holds a value", decoded[int64], union(integer(7)), int64(7), ""},
		{"an optional value that is there", decoded[*int64], union(integer(7)), &seven, ""},
		{"one that is not", decoded[*int64], union(noneLiteral()), (*int64)(nil), ""},
		{"None is an any", decoded[any], noneLiteral(), nil, ""},
		{"None is no number", decoded[int64], noneLiteral(), nil, "x: it is None, which a int64 cannot be; a *int64 can"},
		{"a whole number fits a float", decoded[float64], integer(7), 7.0, ""},
		{"a float is no integer, whole or not", decoded[int64], float, nil, "x: a literal of kind float does not fit into int64"},
		{"a number that is too large", decoded[int8], integer(300), nil, "x: a literal of kind integer does not fit into int8"},
		{"a float that would be infinite", decoded[float32], literals(values{"x": 1e300}).GetLiterals()["x"], nil, "x: a literal of kind float does not fit into float32"},
		{"infinity is a float of any size", decoded[float32], literals(values{"x": math.Inf(1)}).GetLiterals()["x"], float32(math.Inf(1)), ""},
		{"one in a dataclass", decoded[struct{ F float32 }], packed(values{"F": 1e300}), nil, "x: F: a float does not fit into float32"},
		{"a negative number", decoded[uint64], integer(-1), nil, "x: a literal of kind integer does not fit into uint64"},
		{"a number is no text", decoded[string], integer(7), nil, "x: a literal of kind integer does not fit into string"},
		{"text is no number", decoded[int64], text, nil, "x: a literal of kind string does not fit into int64"},
		{"text is no bytes", decoded[[]byte], text, nil, "x: a literal of kind string does not fit into []uint8"},
		{"a number is no duration", decoded[time.Duration], integer(7), nil, "x: a literal of kind integer does not fit into time.Duration"},
		{"text is no time", decoded[time.Time], text, nil, "x: a literal of kind string does not fit into time.Time"},
		{"a file is no text", decoded[string], scalar(&core.Scalar{Value: &core.Scalar_Blob{Blob: &core.Blob{Uri: "u"}}}), nil, "x: a literal of kind blob does not fit into string"},
		{"a list is no number", decoded[int64], &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{}}}, nil, "x: a list does not fit into int64"},
		{"a map is no list", decoded[[]int64], &core.Literal{Value: &core.Literal_Map{Map: &core.LiteralMap{}}}, nil, "does not fit into []int64"},
		{"a number is no map", decoded[map[string]int64], integer(1), nil, "x: a literal of kind integer does not fit into map[string]int64"},
		{
			"the place of what is wrong is told", decoded[[]int64],
			&core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: []*core.Literal{integer(1), text}}}},
			nil, "x: [1]: a literal of kind string does not fit into int64",
		},
		{"data that is elsewhere", decoded[int64], offloaded, nil, "x: it is stored at s3://big; take it as a *core.Literal"},
		{"data that is elsewhere, as it is", decoded[*core.Literal], offloaded, offloaded, ""},
		{"nothing at all", decoded[any], &core.Literal{}, nil, "x: it is an empty literal"},
		{"a dataclass of flytekit", decoded[point], packed(values{"x": 7, "y": 2, "names": []string{"a"}, "next": nil, "more": 1}), point{X: 7, Y: 2, Names: []string{"a"}}, ""},
		{"a dataclass of older flytekit", decoded[point], generic(values{"x": 7, "y": 2.5, "names": []any{}}), point{X: 7, Y: 2.5, Names: []string{}}, ""},
		{"a dict", decoded[any], packed(values{"n": uint8(200), "f": float32(0.5), "k": map[int]string{1: "a"}}), values{"n": int64(200), "f": 0.5, "k": values{"1": "a"}}, ""},
		{"a dict of numbers", decoded[map[string]float64], packed(values{"a": 1}), map[string]float64{"a": 1}, ""},
		{"an untyped list", decoded[[]int64], packed([]int{1, 2}), []int64{1, 2}, ""},
		{"a wrong dataclass", decoded[point], packed(values{"x": "seven"}), nil, "x: x: a string does not fit into int64"},
		{"a structure that is none", decoded[point], packed(7), nil, "x: an int does not fit into backendplugin_test.point"},
		{
			"garbage", decoded[any], scalar(&core.Scalar{Value: &core.Scalar_Binary{Binary: &core.Binary{Value: []byte{0x82, 0xc1}, Tag: "msgpack"}}}),
			nil, "x: it is no valid MessagePack",
		},
		{"a structure that nests without end", decoded[any], messagePack(bytes.Repeat([]byte{0x91}, 1<<20)), nil, "x: it nests too deep"},
		{"a list that claims to be long", decoded[any], messagePack([]byte{0xdd, 0xff, 0xff, 0xff, 0xff, 1}), nil, "x: it is no valid MessagePack"},
		{"a map that claims to be long", decoded[any], messagePack([]byte{0xdf, 0xff, 0xff, 0xff, 0xff, 1, 1}), nil, "x: it is no valid MessagePack"},
		{"text that claims to be long", decoded[any], messagePack([]byte{0xdb, 0xff, 0xff, 0xff, 0xff, 1}), nil, "x: it is no valid MessagePack"},
		{"more than one value", decoded[any], messagePack([]byte{1, 2}), nil, "x: it is no valid MessagePack"},
		{"nothing", decoded[any], messagePack(nil), nil, "x: it is no valid MessagePack"},
		{"an extension", decoded[any], messagePack([]byte{0xd4, 7, 7}), nil, "x: it has a MessagePack extension that is no time"},
		{"a time of MessagePack's own", decoded[any], packed(values{"at": time.Unix(1e9, 5)}), values{"at": "2001-09-09T01:46:40.000000005Z"}, ""},
		{"a short one", decoded[any], messagePack([]byte{0xd6, 0xff, 0, 0, 0, 1}), "1970-01-01T00:00:01Z", ""},
		{"a long one", decoded[any], messagePack([]byte{0xc7, 12, 0xff, 0, 0, 0, 5, 255, 255, 255, 255, 255, 255, 255, 255}), "1969-12-31T23:59:59.000000005Z", ""},
		{"a time out of range", decoded[time.Time], primitive(&core.Primitive{Value: &core.Primitive_Datetime{Datetime: &timestamppb.Timestamp{Nanos: -1}}}), nil, "x: it is no valid time"},
		{
			"a duration out of range", decoded[time.Duration], primitive(&core.Primitive{Value: &core.Primitive_Duration{Duration: &durationpb.Duration{Seconds: 3e11}}}),
			nil, "x: it is a duration of more than 292 years",
		},
		{
			"times and durations inside a dataclass are text and seconds", decoded[struct {
				At time.Time     `flyte:"at"`
				D  time.Duration `flyte:"d"`
			}],
			packed(values{"at": "2024-02-29T12:30:00+01:00", "d": 1.5}),
			struct {
				At time.Time     `flyte:"at"`
				D  time.Duration `flyte:"d"`
			}{time.Date(2024, 2, 29, 11, 30, 0, 0, time.UTC), 1500 * time.Millisecond}, "",
		},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			got, err := tt.decode(tt.of)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestInputsThatAreMissing(t *testing.T) {
	var in struct {
		Must  int64  `flyte:"must"`
		May   *int64 `flyte:"may"`
		Might int64  `flyte:"might,optional"`
	}
	require.EqualError(t, backendplugin.DecodeInputs(nil, &in), `there is no "must"; the task gives none`)
	require.EqualError(t, backendplugin.DecodeInputs(literals(values{"Must": 1, "may": 2}), &in), `there is no "must"; the task gives ["Must" "may"]`)
	many := values{}
	for i := range 1000 {
		many[fmt.Sprint(i)] = i
	}
	require.EqualError(t, backendplugin.DecodeInputs(literals(many), &in), `there is no "must" among the 1000 that the task gives`)
	require.NoError(t, backendplugin.DecodeInputs(literals(values{"must": 1, "more": 2}), &in))
	require.Equal(t, int64(1), in.Must)
}

func TestEncodeRefuses(t *testing.T) {
	loop := values{}
	loop["again"] = loop
	circle := make([]any, 1)
	circle[0] = circle
	for reason, v := range map[string]any{
		"text that is not UTF-8":                    "a\xff",
		"text in a structure that is not UTF-8":     values{"a": "\xff"},
		"an integer of 64 bits":                     uint64(math.MaxUint64),
		"a time after the year 9999":                time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
		"a function":                                func() {},
		"a function in a structure":                 values{"f": func() {}},
		"a structure that leads to itself":          loop,
		"a list that leads to itself":               circle,
		"a file in a structure":                     values{"f": backendplugin.Blob{}},
		"keys that are no strings in a structure":   values{"m": map[int]any{}},
		"an embedded struct in a structure":         struct{ point }{},
		"a complex number":                          complex(1, 1),
		"something unfit deep in a list":            []any{1, []any{make(chan int)}},
		"a structure with a complex number in list": values{"l": []complex128{1}},
	} {
		_, err := backendplugin.EncodeOutputs(values{"x": v})
		require.ErrorContains(t, err, "x: ", reason)
	}
	_, err := backendplugin.EncodeOutputs(7)
	require.Error(t, err)
}

// TestTypesAreChecked: a plugin whose types cannot be literals is refused before it is served.
func TestTypesAreChecked(t *testing.T) {
	type recursive struct {
		Next []*recursive          `flyte:"next"`
		Map  map[string]*recursive `flyte:"map"`
	}
	type located struct {
		Since time.Time
		At    *url.URL `json:"-"`
		Made  []struct{ Day time.Month }
	}
	good := []*backendplugin.Plugin{
		typed[struct {
			Files map[string][]backendplugin.Blob
		}, located, values](), typed[values, struct{ batch }, struct{ A, b int }](),
		typed[everything, string, everything](), typed[struct{ R recursive }, []byte, backendplugin.None](),
		typed[*core.LiteralMap, struct{ A int }, map[string]*core.Literal](), typed[map[string]float64, int64, map[string]any](),
	}
	for _, p := range good {
		_, err := backendplugin.NewServer(backendplugin.Plugins{p}, backendplugin.WithPlainText())
		require.NoError(t, err)
	}
	for _, tt := range []struct {
		plugin *backendplugin.Plugin
		want   string
	}{
		{typed[int, string, values](), "its inputs: int is no struct, no map by name and no *core.LiteralMap"},
		{typed[backendplugin.Blob, string, values](), "its inputs: backendplugin.Blob is no struct"},
		{typed[values, string, struct{ C chan int }](), "its outputs: C: no literal can become a chan int"},
		{typed[values, string, map[string]map[int]int](), "keys that are no strings"},
		{typed[struct{ E error }, string, values](), "E: no literal can become a error"},
		{typed[struct{ point }, string, values](), "embeds"},
		{typed[struct {
			A int `flyte:"a"`
			B int `flyte:"a"`
		}, string, values](), `two fields called "a"`},
		{typed[struct {
			a int `flyte:"a"`
		}, string, values](), "not exported"},
		{typed[struct {
			A int `flyte:"a,omitempty"`
		}, string, values](), `"omitempty"`},
		{typed[struct{ P []struct{ F func() } }, string, values](), "P: F: no literal can become a func()"},
		{typed[values, chan int, values](), "its job id, chan int, cannot be written as JSON"},
		{typed[values, struct{ region, Name string }, values](), "would lose field region of struct { region string; Name string }, which is not exported"},
		{typed[values, []*struct{ Place struct{ zone int } }, values](), "would lose field zone of"},
		{typed[values, struct{ *batch }, values](), "would lose field batch of"},
		{typed[values, struct{ colour }, values](), "would lose field colour of"},
		{typed[struct{ x int }, string, values](), "its inputs: struct { x int } has no exported field"},
		{typed[values, string, struct{ Total big.Int }](), "its outputs: Total: big.Int has no exported field"},
		{typed[struct {
			Files struct{ First []backendplugin.Blob }
		}, string, values](), "Files: First: a backendplugin.Blob is no part of a structure"},
		{typed[values, string, map[string]struct{ L *core.Literal }](), "L: a *core.Literal is no part of a structure"},
	} {
		_, err := backendplugin.NewServer(backendplugin.Plugins{tt.plugin}, backendplugin.WithPlainText())
		require.ErrorContains(t, err, tt.want)
	}
}

func typed[In, ID, Out any]() *backendplugin.Plugin {
	return backendplugin.New("t", &fake[In, ID, Out]{})
}

// TestInputsAndCustomReachThePlugin: over the wire, typed and raw.
func TestInputsAndCustomReachThePlugin(t *testing.T) {
	type config struct {
		Query   string        `flyte:"query"`
		Limit   int           `flyte:"limit"`
		Timeout time.Duration `flyte:"timeout"`
	}
	custom, err := structpb.NewStruct(values{"query": "select 1", "timeout": 2.5})
	require.NoError(t, err)
	w := start(t, backendplugin.Plugins{backendplugin.New("a", &fake[struct {
		X int64 `flyte:"x"`
	}, string, values]{
		create: func(_ context.Context, r *backendplugin.Request[struct {
			X int64 `flyte:"x"`
		}]) (string, error) {
			c := config{Limit: 10}
			if err := r.Custom(&c); err != nil {
				return "", err
			}
			assert.Equal(t, config{"select 1", 10, 2500 * time.Millisecond}, c)
			assert.Equal(t, int64(7), r.Inputs.X)
			assert.True(t, proto.Equal(literals(values{"x": 7}), r.RawInputs))
			var wrong struct {
				Query int `flyte:"query"`
			}
			return "", r.Custom(&wrong)
		},
	})})
	_, err = w.async.CreateTask(w.within(), createRequest(&core.TaskTemplate{Type: "a", Custom: custom}, values{"x": 7}))
	require.ErrorContains(t, err, "InvalidArgument desc = the task's custom: query: a string does not fit into int")
	_, err = w.async.CreateTask(w.within(), createRequest(&core.TaskTemplate{Type: "a"}, values{"x": "seven"}))
	require.ErrorContains(t, err, "InvalidArgument desc = the task's inputs: x: a literal of kind string does not fit into int64")
}

// TestMessagePackIsUnderstood: another implementation reads what this one writes, and the other way round, at every size at
// which the format changes.
func TestMessagePackIsUnderstood(t *testing.T) {
	all := values{"float": 0.1, "none": nil, "yes": true, "no": false}
	for _, n := range []int64{0, 1, -1, math.MinInt64} {
		all[fmt.Sprint(n)] = n
	}
	for shift := range 63 {
		for off := int64(-1); off < 2; off++ {
			n := int64(1)<<shift + off
			all[fmt.Sprint(n)], all[fmt.Sprint(-n)] = n, -n
		}
	}
	for _, n := range []int{0, 15, 16, 31, 32, 255, 256, 65535, 65536} {
		list, m := make([]any, n), values{}
		for i := range list {
			list[i] = int64(i)
			m[fmt.Sprint(i)] = true
		}
		all[fmt.Sprintf("text of %d", n)], all[fmt.Sprintf("bytes of %d", n)] = strings.Repeat("x", n), bytes.Repeat([]byte{1}, n)
		all[fmt.Sprintf("list of %d", n)], all[fmt.Sprintf("map of %d", n)] = list, m
	}
	ours := literals(values{"x": all}).GetLiterals()["x"].GetScalar().GetBinary()
	require.Equal(t, "msgpack", ours.GetTag())
	var theirs map[string]any
	require.NoError(t, msgpack.Unmarshal(ours.GetValue(), &theirs))
	again, err := msgpack.Marshal(theirs)
	require.NoError(t, err)
	back, err := decoded[any](messagePack(again))
	require.NoError(t, err)
	require.Equal(t, all, back)
	back, err = decoded[any](messagePack(ours.GetValue()))
	require.NoError(t, err)
	require.Equal(t, all, back)
}

// FuzzMessagePack: no input makes it panic, and what it reads it can write and read again.
func FuzzMessagePack(f *testing.F) {
	f.Add([]byte{0x81, 0xa1, 'a', 0x93, 1, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0xd6, 0xff, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := decoded[any](messagePack(raw))
		if err != nil {
			return
		}
		m, ok := x.(values)
		if !ok {
			return
		}
		l, err := backendplugin.EncodeOutputs(values{"x": m})
		if err != nil {
			return // text that is not UTF-8, an integer of 64 bits
		}
		again, err := decoded[any](l.GetLiterals()["x"])
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(x), fmt.Sprint(again)) // NaN is not equal to itself
	})
}
