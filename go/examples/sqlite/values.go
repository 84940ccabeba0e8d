package sqlite

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/flyteorg/flyte/flyteidl/gen/pb-go/flyteidl/core"
)

// maxValueBytes bounds values, which are kept in the jobs table and sent with every answer about the job.
const maxValueBytes = 1 << 20

// valueOutput is an output that is a cell of the result, or a list of a column's cells.
type valueOutput struct {
	name   string
	list   bool
	simple core.SimpleType
	// value and none are the variants of an Optional; both are nil for a type that has no room for NULL.
	value, none *core.LiteralType
}

// parseValueOutput says no for types that are not made from values.
func parseValueOutput(name string, typ *core.LiteralType) (valueOutput, bool) {
	v := valueOutput{name: name}
	if item := typ.GetCollectionType(); item != nil {
		v.list, typ = true, item
	}
	if variants := typ.GetUnionType().GetVariants(); len(variants) == 2 {
		v.value, v.none = variants[0], variants[1]
		if v.value.GetSimple() == core.SimpleType_NONE && isSimple(v.value) {
			v.value, v.none = v.none, v.value
		}
		if !isSimple(v.none) || v.none.GetSimple() != core.SimpleType_NONE {
			return v, false
		}
		typ = v.value
	}
	v.simple = typ.GetSimple()
	switch v.simple {
	case core.SimpleType_INTEGER, core.SimpleType_FLOAT, core.SimpleType_STRING, core.SimpleType_BOOLEAN:
		return v, true
	default:
		return v, false
	}
}

// isSimple tells none, which is the enum's zero value, from a type that is not simple at all.
func isSimple(t *core.LiteralType) bool {
	_, ok := t.GetType().(*core.LiteralType_Simple)
	return ok
}

// valuesOf makes the outputs that are values.
func valuesOf(outs []valueOutput, t *table) (*core.LiteralMap, error) {
	m := &core.LiteralMap{Literals: map[string]*core.Literal{}}
	for _, out := range outs {
		column, err := out.column(t, len(outs))
		if err != nil {
			return nil, userError("MissingColumns", err)
		}
		if !out.list && len(t.rows) != 1 {
			return nil, userError("NotOneRow", fmt.Errorf("output %s is one value, and the query returns %d rows; it has to return one", out.name, len(t.rows)))
		}
		items := make([]*core.Literal, 0, len(t.rows))
		for i, row := range t.rows {
			item, err := out.literal(row[column])
			if err != nil {
				return nil, userError("WrongType", fmt.Errorf("output %s, row %d: %w", out.name, i+1, err))
			}
			items = append(items, item)
		}
		if out.list {
			m.Literals[out.name] = &core.Literal{Value: &core.Literal_Collection{Collection: &core.LiteralCollection{Literals: items}}}
		} else {
			m.Literals[out.name] = items[0]
		}
	}
	if size := proto.Size(m); size > maxValueBytes {
		return nil, userError("ResultTooLarge", fmt.Errorf("the outputs that are values take %d bytes; %d are allowed, declare a schema or structured dataset", size, maxValueBytes))
	}
	return m, nil
}

// column finds the column that an output is made from.
func (v valueOutput) column(t *table, outputs int) (int, error) {
	var have []string
	for i, c := range t.columns {
		if c.name == v.name {
			return i, nil
		}
		have = append(have, c.name)
	}
	if len(t.columns) == 1 && outputs == 1 {
		return 0, nil
	}
	return 0, fmt.Errorf("output %s has no column of its name; the query returns %s", v.name, list(have))
}

// literal writes a cell as the declared type, as long as nothing of it is lost.
func (v valueOutput) literal(cell any) (*core.Literal, error) {
	if cell == nil {
		if v.none == nil {
			return nil, fmt.Errorf("the value is NULL, and the declared type is not Optional")
		}
		return v.wrap(&core.Scalar{Value: &core.Scalar_NoneType{NoneType: &core.Void{}}}, v.none), nil
	}
	p := &core.Primitive{}
	switch c := cell.(type) {
	case int64:
		switch {
		case v.simple == core.SimpleType_INTEGER:
			p.Value = &core.Primitive_Integer{Integer: c}
		case v.simple == core.SimpleType_FLOAT:
			p.Value = &core.Primitive_FloatValue{FloatValue: float64(c)}
		case v.simple == core.SimpleType_BOOLEAN && (c == 0 || c == 1):
			p.Value = &core.Primitive_Boolean{Boolean: c == 1}
		}
	case float64:
		if v.simple == core.SimpleType_FLOAT {
			p.Value = &core.Primitive_FloatValue{FloatValue: c}
		}
	case string:
		if v.simple == core.SimpleType_STRING {
			p.Value = &core.Primitive_StringValue{StringValue: text(c)}
		}
	}
	if p.GetValue() == nil {
		return nil, fmt.Errorf("%s is no %s; write a CAST into the query, or declare another type", cellKind(cell), v.simple)
	}
	return v.wrap(&core.Scalar{Value: &core.Scalar_Primitive{Primitive: p}}, v.value), nil
}

// wrap puts a value into a union if the declared type is one.
func (v valueOutput) wrap(s *core.Scalar, variant *core.LiteralType) *core.Literal {
	l := &core.Literal{Value: &core.Literal_Scalar{Scalar: s}}
	if v.none == nil {
		return l
	}
	return &core.Literal{Value: &core.Literal_Scalar{Scalar: &core.Scalar{
		Value: &core.Scalar_Union{Union: &core.Union{Value: l, Type: variant}},
	}}}
}

// cellKind names a cell in a message: its kind, and a number's value; a text's may be long, and is the user's own.
func cellKind(cell any) string {
	switch cell.(type) {
	case string:
		return "a text"
	case []byte:
		return "a blob"
	}
	return fmt.Sprintf("the number %v", cell)
}
