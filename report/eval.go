package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/reward"
	"github.com/kvgym/kvgym/toolenv"
)

// evalColumn is one column of a table about groups of episodes.
type evalColumn struct {
	name, format string
	value        func(*eval.Group) eval.Mean
}

// EvalText is an evaluation's summary for people: a table of scores, one of what they are made of, one of what was called and used, and the
// failures.
func EvalText(s *eval.Summary) string {
	var w strings.Builder
	evalTable(&w, s.Groups, "", scoreColumns)
	evalTable(&w, s.Groups, "means of the components, before weighting", componentColumns(s))
	evalTable(&w, s.Groups, "means of an episode", useColumns())
	fmt.Fprintf(&w, "%d episodes", s.Episodes)
	if s.Kept > 0 {
		fmt.Fprintf(&w, " (%d kept from an earlier run)", s.Kept)
	}
	fmt.Fprintf(&w, " in %.1f s, in %s\n", s.Seconds, s.Out)
	for _, f := range s.Failures {
		fmt.Fprintf(&w, "failed: %d of %s: %s\n", f.Episodes, f.Kind, f.First)
	}
	return w.String()
}

var scoreColumns = []evalColumn{
	{"episodes", "%.0f", func(g *eval.Group) eval.Mean { return eval.Mean(g.Episodes) }},
	{"failed", "%.0f", func(g *eval.Group) eval.Mean { return eval.Mean(g.Failed) }},
	{"score", "%.4f", func(g *eval.Group) eval.Mean { return g.Reward }},
	{"± 95 %", "%.4f", func(g *eval.Group) eval.Mean { return (g.RewardCI95[1] - g.RewardCI95[0]) / 2 }},
	{"failures", "%.2f", func(g *eval.Group) eval.Mean { return g.Failures }},
	{"tokens", "%.0f", func(g *eval.Group) eval.Mean { return g.Tokens }},
	{"swap latency", "%.2f", func(g *eval.Group) eval.Mean { return g.Latency }},
	{"steps above 95 %", "%.1f", func(g *eval.Group) eval.Mean { return g.PressureSteps }},
}

// componentColumns are the profile's components, each with its weight.
func componentColumns(s *eval.Summary) (out []evalColumn) {
	for _, name := range reward.Names {
		weight, ok := s.Weights[name]
		if !ok {
			continue
		}
		title := fmt.Sprintf("%s\n(%.2f)", strings.ReplaceAll(name, "_", "\n"), weight) // one word a line keeps the table narrow
		out = append(out, evalColumn{title, "%.4f", func(g *eval.Group) eval.Mean {
			if v, ok := g.Components[name]; ok {
				return v
			}
			return eval.Mean(math.NaN())
		}})
	}
	return out
}

func useColumns() (out []evalColumn) {
	for _, t := range toolenv.Tools() {
		out = append(out, evalColumn{t.Function.Name, "%.1f", func(g *eval.Group) eval.Mean { return g.Calls[t.Function.Name] }})
	}
	return append(out,
		evalColumn{"refused calls", "%.1f", func(g *eval.Group) eval.Mean { refused, _ := g.BadCalls(); return refused }},
		evalColumn{"turns without calls", "%.1f", func(g *eval.Group) eval.Mean { _, none := g.BadCalls(); return none }},
		evalColumn{"requests", "%.1f", func(g *eval.Group) eval.Mean { return g.Requests }},
		evalColumn{"prompt tokens", "%.0f", func(g *eval.Group) eval.Mean { return g.Prompt }},
		evalColumn{"reply tokens", "%.0f", func(g *eval.Group) eval.Mean { return g.Completion }},
		evalColumn{"seconds", "%.1f", func(g *eval.Group) eval.Mean { return g.Seconds }})
}

// evalTable writes one table with a row a group. A mean of nothing is left empty.
func evalTable(w *strings.Builder, groups []eval.Group, title string, columns []evalColumn) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	if title != "" {
		fmt.Fprintf(w, "%s\n", title)
	}
	header, right := table.Row{"policy", "difficulty"}, []table.ColumnConfig{}
	for n, c := range columns {
		header = append(header, c.name)
		right = append(right, table.ColumnConfig{Number: n + 3, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.AppendHeader(header)
	t.SetColumnConfigs(right)
	for i := range groups {
		g := &groups[i]
		if i > 0 && g.Policy != groups[i-1].Policy {
			t.AppendSeparator()
		}
		row := table.Row{g.Policy, g.Difficulty}
		for _, c := range columns {
			cell := ""
			if v := float64(c.value(g)); !math.IsNaN(v) {
				cell = fmt.Sprintf(c.format, v)
			}
			row = append(row, cell)
		}
		t.AppendRow(row)
	}
	t.Render()
}
