package eval

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/schema"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/toolenv"
	"github.com/kvgym/kvgym/vecenv"
)

// ParquetName is the table of the results in the output folder.
const ParquetName = "results.parquet"

// column is one column of the table. Its value is an int64, a float64, a string, []float64, or nil where there is none.
type column struct {
	name, about string
	value       func(*Row) any
}

// ColumnOf documents a column.
type ColumnOf struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	About string `json:"about"`
}

// Columns documents the columns of the table. Those of maps have their keys as names.
func Columns() (out []ColumnOf) {
	for _, c := range columns() {
		out = append(out, ColumnOf{c.name, c.kind().name, c.about})
	}
	return out
}

func columns() []column {
	integer := func(name, about string, of func(*Row) int64) column {
		return column{name, about, func(r *Row) any { return of(r) }}
	}
	out := []column{
		{"policy", "who played: the model's name, or a policy's", func(r *Row) any { return r.Policy }},
		integer("example", "number of the environment", func(r *Row) int64 { return int64(r.Example) }),
		integer("rollout", "number among the rollouts of the example", func(r *Row) int64 { return int64(r.Rollout) }),
		{"difficulty", "that the episode was drawn from", func(r *Row) any { return r.Difficulty }},
		{"score", "null: the episode failed", func(r *Row) any {
			if r.Score == nil {
				return nil
			}
			return *r.Score
		}},
		{"error_kind", "null: the episode did not fail", func(r *Row) any {
			if r.Failure == nil {
				return nil
			}
			return string(r.Failure.Kind)
		}},
		{"error_message", "what was said", func(r *Row) any {
			if r.Failure == nil {
				return nil
			}
			return r.Failure.Message
		}},
	}
	for _, name := range reward.Names {
		out = append(out, column{name, "term before weighting; null where the profile has none", func(r *Row) any { return valueAt(r.Components, name) }})
	}
	for _, name := range vecenv.MetricNames {
		out = append(out, column{name, "metric", func(r *Row) any { return valueAt(r.Metrics, name) }})
	}
	for _, t := range toolenv.Tools() {
		out = append(out, integer("calls_"+t.Function.Name, "calls of the tool, refused ones included", func(r *Row) int64 { return int64(r.Calls[t.Function.Name]) }))
	}
	for _, f := range toolenv.Faults {
		out = append(out, integer("fault_"+string(f), "what was wrong with calls or turns, by kind", func(r *Row) int64 { return int64(r.Faults[f]) }))
	}
	return append(out,
		integer("turns", "steps done", func(r *Row) int64 { return int64(r.Turns) }),
		integer("requests", "requests of the endpoint, retries included", func(r *Row) int64 { return int64(r.Requests) }),
		integer("retries", "of them", func(r *Row) int64 { return int64(r.Retries) }),
		integer("cut_replies", "replies that ended at the limit of tokens", func(r *Row) int64 { return int64(r.CutReplies) }),
		integer("prompt_tokens", "as the endpoint counts, of all requests", func(r *Row) int64 { return r.PromptTokens }),
		integer("cached_tokens", "of the prompt tokens", func(r *Row) int64 { return r.CachedTokens }),
		integer("completion_tokens", "as the endpoint counts, of all requests", func(r *Row) int64 { return r.CompletionTokens }),
		integer("reasoning_tokens", "of the completion tokens", func(r *Row) int64 { return r.ReasoningTokens }),
		column{"seconds", "wall time of the episode", func(r *Row) any { return r.Seconds }},
		column{"memory_usage_by_turn", "at the start and after every step, share of the budget", func(r *Row) any { return r.Memory }},
		column{"messages", "the conversation, JSON as the protocol has it", func(r *Row) any {
			text, _ := json.Marshal(r.Messages) // which is JSON already
			return string(text)
		}})
}

func valueAt(m map[string]float64, name string) any {
	if v, ok := m[name]; ok {
		return v
	}
	return nil
}

// kind is how a column's values are stored.
type kind struct {
	name     string
	physical parquet.Type
	logical  schema.LogicalType
	repeated parquet.Repetition
}

var (
	integers = kind{"int64", parquet.Types.Int64, nil, parquet.Repetitions.Required}
	numbers  = kind{"float64", parquet.Types.Double, nil, parquet.Repetitions.Optional}
	texts    = kind{"string", parquet.Types.ByteArray, schema.StringLogicalType{}, parquet.Repetitions.Optional}
	series   = kind{"list<float64>", parquet.Types.Double, nil, parquet.Repetitions.Repeated}
)

// kind finds out by the value of a row that has everything.
func (c *column) kind() kind {
	full := Row{Score: new(float64), Failure: &Failure{}, Components: map[string]float64{}, Metrics: map[string]float64{}}
	full.Components[c.name], full.Metrics[c.name] = 0, 0
	switch c.value(&full).(type) {
	case int64:
		return integers
	case string:
		return texts
	case []float64:
		return series
	}
	return numbers
}

// rowsPerGroup bounds what is held in memory: rows have conversations of some 50 kB.
const rowsPerGroup = 256

// writeParquet writes the results of a folder as a table. arrow-go panics on some errors of the writer below it.
func writeParquet(out io.Writer, folder string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	cols := columns()
	var fields schema.FieldList
	for i := range cols {
		k := cols[i].kind()
		n, err := schema.NewPrimitiveNodeLogical(cols[i].name, k.repeated, k.logical, k.physical, -1, -1)
		if err != nil {
			return err
		}
		fields = append(fields, n)
	}
	root, err := schema.NewGroupNode("schema", parquet.Repetitions.Required, fields, -1)
	if err != nil {
		return err
	}
	w := file.NewParquetWriter(out, root, file.WithWriterProps(parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCreatedBy("kvgym eval version 1"))))
	var rows []*Row
	flush := func() error {
		defer func() { rows = rows[:0] }()
		return writeGroup(w.AppendRowGroup(), cols, rows)
	}
	if err := ReadRows(folder, func(r *Row) error {
		if rows = append(rows, r); len(rows) < rowsPerGroup {
			return nil
		}
		return flush()
	}); err != nil {
		return err
	}
	if len(rows) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeGroup(g file.SerialRowGroupWriter, cols []column, rows []*Row) error {
	for i := range cols {
		w, err := g.NextColumn()
		if err != nil {
			return err
		}
		if err := cols[i].write(w, rows); err != nil {
			return fmt.Errorf("column %s: %w", cols[i].name, err)
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return g.Close()
}

// write writes a column's values of some rows, with the levels that say where there is none and where a row's list begins.
func (c *column) write(w file.ColumnChunkWriter, rows []*Row) (err error) {
	var v values
	for _, r := range rows {
		v.add(c.value(r))
	}
	switch w := w.(type) {
	case *file.Int64ColumnChunkWriter:
		_, err = w.WriteBatch(v.integers, nil, nil)
	case *file.Float64ColumnChunkWriter:
		_, err = w.WriteBatch(v.numbers, v.present, v.inside)
	case *file.ByteArrayColumnChunkWriter:
		_, err = w.WriteBatch(v.texts, v.present, nil)
	default:
		err = fmt.Errorf("%T: allowed integers, numbers, texts", w)
	}
	return err
}

// values are a column's values as Parquet takes them.
type values struct {
	integers []int64
	numbers  []float64
	texts    []parquet.ByteArray
	present  []int16 // definition levels
	inside   []int16 // repetition levels
}

func (v *values) add(value any) {
	level := func(present, inside int16) {
		v.present, v.inside = append(v.present, present), append(v.inside, inside)
	}
	switch x := value.(type) {
	case int64:
		v.integers = append(v.integers, x)
	case float64:
		v.numbers = append(v.numbers, x)
		level(1, 0)
	case string:
		v.texts = append(v.texts, parquet.ByteArray(x))
		level(1, 0)
	case []float64:
		if len(x) == 0 {
			level(0, 0)
		}
		for i, f := range x {
			v.numbers = append(v.numbers, f)
			level(1, int16(min(i, 1)))
		}
	default:
		level(0, 0)
	}
}
