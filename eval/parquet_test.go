package eval

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/kvgym/kvgym/toolenv"
	"github.com/stretchr/testify/require"
)

// read reads a column of a table: nil where there is no value, []float64 for a list.
func read(t *testing.T, r *file.Reader, name string) (out []any) {
	index := r.MetaData().Schema.ColumnIndexByName(name)
	require.GreaterOrEqual(t, index, 0, name)
	for g := range r.NumRowGroups() {
		rows := r.RowGroup(g).NumRows()
		col, err := r.RowGroup(g).Column(index)
		require.NoError(t, err)
		def, rep := make([]int16, 100*rows), make([]int16, 100*rows)
		switch c := col.(type) {
		case *file.Int64ColumnChunkReader:
			v := make([]int64, rows)
			_, n, err := c.ReadBatch(rows, v, nil, nil)
			require.NoError(t, err)
			for _, x := range v[:n] {
				out = append(out, x)
			}
		case *file.ByteArrayColumnChunkReader:
			v := make([]parquet.ByteArray, rows)
			total, _, err := c.ReadBatch(rows, v, def, nil)
			require.NoError(t, err)
			for at, i := 0, 0; i < int(total); i++ {
				if def[i] == 0 {
					out = append(out, nil)
					continue
				}
				out = append(out, string(v[at]))
				at++
			}
		case *file.Float64ColumnChunkReader:
			v := make([]float64, 100*rows)
			total, _, err := c.ReadBatch(100*rows, v, def, rep)
			require.NoError(t, err)
			list := c.Descriptor().MaxRepetitionLevel() > 0
			for at, i := 0, 0; i < int(total); i++ {
				switch {
				case list && rep[i] == 0:
					out = append(out, []float64{})
				case !list && def[i] == 0:
					out = append(out, nil)
				}
				if def[i] == 0 {
					continue
				}
				if list {
					last := len(out) - 1
					out[last] = append(out[last].([]float64), v[at])
				} else {
					out = append(out, v[at])
				}
				at++
			}
		}
	}
	return out
}

// The table has every value of every line, over several row groups, absent ones and empty lists too.
func TestParquetHasAllRows(t *testing.T) {
	dir := t.TempDir()
	var lines strings.Builder
	var want []*Row
	for i := range 2*rowsPerGroup + 3 {
		r := scoredRow(i, float64(i)/1000)
		r.Rollout, r.Calls, r.Faults = i%3, map[string]int{"evict": i, "keep": 1}, map[toolenv.Fault]int{toolenv.BadJSON: i}
		r.Usage, r.Seconds = Usage{Requests: i, PromptTokens: int64(i) << 33}, 0.5
		r.Memory, r.Messages = []float64{0.1, float64(i)}[:i%3], []json.RawMessage{[]byte(`{"role":"user","content":"ä"}`)}
		if i%5 == 0 {
			r.Score, r.Components, r.Metrics, r.Failure = nil, nil, nil, &Failure{Kind: TimedOut, Message: "late"}
		}
		if i%3 == 0 {
			r.Memory = nil
		}
		text, err := json.Marshal(&r)
		require.NoError(t, err)
		lines.Write(append(text, '\n'))
		want = append(want, &r)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, ResultsName), []byte(lines.String()), 0o600))
	out, err := os.Create(filepath.Join(dir, ParquetName))
	require.NoError(t, err)
	require.NoError(t, writeParquet(out, dir))
	r, err := file.OpenParquetFile(out.Name(), false)
	require.NoError(t, err)
	defer r.Close()
	require.EqualValues(t, len(want), r.NumRows())
	require.Equal(t, 3, r.NumRowGroups())
	require.Len(t, columns(), r.MetaData().Schema.NumColumns())
	for _, c := range columns() {
		got := read(t, r, c.name)
		require.Len(t, got, len(want), c.name)
		for i, row := range want {
			value := c.value(row)
			if list, ok := value.([]float64); ok && len(list) == 0 {
				value = []float64{}
			}
			require.Equal(t, value, got[i], "%s of row %d", c.name, i)
		}
	}
	require.Equal(t, []any{nil, 0.0005}, read(t, r, "headroom_bonus")[:2])
}

// The columns' names are all different, and every field of a line is in one of them.
func TestColumns(t *testing.T) {
	names := map[string]bool{}
	for _, c := range Columns() {
		require.False(t, names[c.Name], c.Name)
		names[c.Name] = true
	}
	text, err := json.Marshal(&Row{Messages: []json.RawMessage{[]byte("1")}})
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(text, &fields))
	for name := range fields {
		switch name {
		case "components", "metrics", "calls", "faults", "error": // flat in the table
		default:
			require.True(t, names[name], name)
		}
	}
}
