package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kvgym/kvgym/eval"
	"github.com/kvgym/kvgym/internal/outdir"
	"github.com/kvgym/kvgym/reward"
)

// TranscriptName is the file of the transcript in an evaluation's folder.
const TranscriptName = "transcript.html"

//go:embed transcript.html
var transcriptText string

var transcriptPage = template.Must(template.New(TranscriptName).Parse(transcriptText))

// Episodes chooses episodes of an evaluation.
type Episodes struct {
	all, best, worst, failed bool
	examples                 []int
}

// EpisodesAllowed says what ParseEpisodes allows.
const EpisodesAllowed = "all, none, best, worst (best and worst of each player), failed, numbers of examples, or several of them separated by commas"

// ParseEpisodes reads words such as best,worst,3.
func ParseEpisodes(words string) (e Episodes, err error) {
	for _, w := range strings.Split(words, ",") {
		switch w = strings.TrimSpace(w); w {
		case "none":
		case "all":
			e.all = true
		case "best":
			e.best = true
		case "worst":
			e.worst = true
		case "failed":
			e.failed = true
		default:
			n, err := strconv.Atoi(w)
			if err != nil || n < 0 {
				return e, fmt.Errorf("episodes: %.40q: allowed %s", w, EpisodesAllowed)
			}
			e.examples = append(e.examples, n)
		}
	}
	return e, nil
}

// episodeName names an episode of a run.
type episodeName struct {
	policy           string
	example, rollout int
}

func nameOf(r *eval.Row) episodeName { return episodeName{r.Policy, r.Example, r.Rollout} }

// extremes are a player's best and worst episodes.
type extremes struct{ best, worst *eval.Row }

// of chooses among the episodes of a folder.
func (e *Episodes) of(folder string) (map[episodeName]bool, error) {
	chosen, ends := map[episodeName]bool{}, map[string]*extremes{}
	err := eval.ReadRows(folder, func(r *eval.Row) error {
		if e.all || e.failed && r.Score == nil || slices.Contains(e.examples, r.Example) {
			chosen[nameOf(r)] = true
		}
		if r.Score == nil {
			return nil
		}
		r.Messages = nil
		x := ends[r.Policy]
		if x == nil {
			x = &extremes{r, r}
			ends[r.Policy] = x
		}
		if *r.Score > *x.best.Score {
			x.best = r
		}
		if *r.Score < *x.worst.Score {
			x.worst = r
		}
		return nil
	})
	for _, x := range ends {
		if e.best {
			chosen[nameOf(x.best)] = true
		}
		if e.worst {
			chosen[nameOf(x.worst)] = true
		}
	}
	return chosen, err
}

// WriteTranscript writes chosen episodes of an evaluation as one HTML file that needs no other, and returns its path; empty when none is chosen.
func WriteTranscript(folder string, s *eval.Summary, e Episodes) (string, error) {
	chosen, err := e.of(folder)
	if err != nil || len(chosen) == 0 {
		return "", err
	}
	page := transcript{Summary: s}
	if err := eval.ReadRows(folder, func(r *eval.Row) error {
		if chosen[nameOf(r)] {
			page.Episodes = append(page.Episodes, newEpisodeView(r, s.Weights))
		}
		return nil
	}); err != nil {
		return "", err
	}
	slices.SortStableFunc(page.Episodes, func(a, b episodeView) int {
		return slices.Compare([]int{page.rank(a.Policy), a.Example, a.Rollout}, []int{page.rank(b.Policy), b.Example, b.Rollout})
	})
	dir := outdir.Dir{Path: folder, Owner: "eval"}
	return filepath.Join(folder, TranscriptName), dir.Publish(TranscriptName, func(w io.Writer) error { return transcriptPage.Execute(w, &page) })
}

// transcript is what the page shows.
type transcript struct {
	Summary  *eval.Summary
	Episodes []episodeView
}

// rank is the place of a player in the summary.
func (t *transcript) rank(policy string) int {
	return slices.IndexFunc(t.Summary.Groups, func(g eval.Group) bool { return g.Policy == policy })
}

type episodeView struct {
	Policy           string
	Example, Rollout int
	Difficulty       string
	Score            string // or that it failed
	Failure          *eval.Failure
	Terms            []termView
	Chart            chartView
	System           string
	Turns            []turnView
	Closing          string
	Usage            eval.Usage
}

type termView struct{ Name, Value, Weight, Weighted string }

type turnView struct {
	Number      int
	Message     string // of the user, without the observation
	Observation string // for people
	Memory      string // share of the budget before the turn
	Reasoning   string
	Text        string
	Calls       []callView
}

type callView struct {
	Tool, Arguments, Answer string
	Refused                 bool
}

func newEpisodeView(r *eval.Row, weights map[string]float64) episodeView {
	v := episodeView{Policy: r.Policy, Example: r.Example, Rollout: r.Rollout, Difficulty: r.Difficulty, Score: "failed", Failure: r.Failure, Usage: r.Usage}
	if r.Score != nil {
		v.Score = fmt.Sprintf("%.4f", *r.Score)
	}
	for _, name := range reward.Names {
		if x, ok := r.Components[name]; ok {
			w := weights[name]
			v.Terms = append(v.Terms, termView{strings.ReplaceAll(name, "_", " "), fmt.Sprintf("%.4f", x), fmt.Sprintf("%.2f", w), fmt.Sprintf("%+.4f", w*x)})
		}
	}
	v.addMessages(r)
	v.Chart = newChart(r.Memory, v.Turns)
	return v
}

// spoken is what the page reads of a message.
type spoken struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Reasoning  json.RawMessage `json:"reasoning"`
	Reasoning2 json.RawMessage `json:"reasoning_content"`
	ToolCalls  []struct {
		Function struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

// addMessages takes a conversation apart into turns: a user message, the reply, and the answers to its calls in their order.
func (v *episodeView) addMessages(r *eval.Row) {
	answered := 0
	for _, raw := range r.Messages {
		var m spoken
		if json.Unmarshal(raw, &m) != nil {
			continue // whatever it is, results.jsonl has it
		}
		text := textOf(m.Content)
		last := len(v.Turns) - 1
		switch {
		case m.Role == "system":
			v.System = text
		case m.Role == "user":
			v.addTurn(r, text)
			answered = 0
		case m.Role == "assistant" && last >= 0:
			t := &v.Turns[last]
			t.Text, t.Reasoning = text, strings.TrimSpace(textOf(m.Reasoning)+textOf(m.Reasoning2))
			for _, c := range m.ToolCalls {
				t.Calls = append(t.Calls, callView{Tool: c.Function.Name, Arguments: textOf(c.Function.Arguments)})
			}
		case m.Role == "tool" && last >= 0 && answered < len(v.Turns[last].Calls):
			c := &v.Turns[last].Calls[answered]
			c.Answer, c.Refused = text, strings.HasPrefix(text, "refused")
			answered++
		}
	}
}

// addTurn begins a turn with a user message, or closes the episode with it.
func (v *episodeView) addTurn(r *eval.Row, text string) {
	words, observation, ok := strings.Cut(text, "\n{")
	if !ok {
		v.Closing = text
		return
	}
	t := turnView{Number: len(v.Turns) + 1, Message: words}
	var pretty bytes.Buffer
	if json.Indent(&pretty, []byte("{"+observation), "", "  ") == nil {
		t.Observation = pretty.String()
	} else {
		t.Observation = "{" + observation
	}
	if len(v.Turns) < len(r.Memory) {
		t.Memory = percentOf(r.Memory[len(v.Turns)])
	}
	v.Turns = append(v.Turns, t)
}

// textOf is the text of a value: a string's, that of parts, or the JSON itself.
func textOf(raw json.RawMessage) string {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil { // null is no text
		return text
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return string(raw)
	}
	for _, p := range parts {
		text += p.Text
	}
	return text
}

func percentOf(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

// chartView is the memory by turn and, below it, the calls of every turn, in the units of the drawing.
type chartView struct {
	Width, Height int
	Left, Right   int // of the marks
	Line          string
	Dots          []dotView
	Marks         []markView
	Bars          []barView
}

type dotView struct {
	X, Y  float64
	About string
}

type markView struct {
	Y    float64
	Name string
	Hard bool
}

type barView struct {
	X, Y, Width, Height float64
	Tool, About         string
}

// Sizes of the chart.
const (
	chartWidth, chartLeft, chartRight  = 760, 52, 12
	chartTop, chartBottom, chartHeight = 10, 170, 214
	barUnit                            = 4.0 // height of a call
)

func newChart(memory []float64, turns []turnView) chartView {
	c := chartView{Width: chartWidth, Height: chartHeight, Left: chartLeft, Right: chartWidth - chartRight}
	if len(memory) == 0 {
		return c
	}
	least, most := max(0, min(0.65, slices.Min(memory)-0.05)), max(1.05, slices.Max(memory)+0.05) // from where the marks stand apart
	step := float64(chartWidth-chartLeft-chartRight) / float64(max(1, len(memory)-1))
	x := func(i int) float64 { return chartLeft + float64(i)*step }
	y := func(v float64) float64 { return chartBottom - (v-least)/(most-least)*(chartBottom-chartTop) }
	var line strings.Builder
	for i, v := range memory {
		fmt.Fprintf(&line, "%.1f,%.1f ", x(i), y(v))
		c.Dots = append(c.Dots, dotView{x(i), y(v), fmt.Sprintf("before turn %d: %s", i+1, percentOf(v))})
	}
	c.Line = line.String()
	for _, m := range []float64{0.80, 0.95, 1.00} {
		c.Marks = append(c.Marks, markView{y(m), fmt.Sprintf("%.0f %%", 100*m), m == 1})
	}
	for i := range turns {
		c.Bars = append(c.Bars, bars(&turns[i], x(i), step)...)
	}
	return c
}

// bars are the calls of a turn, one block a tool, stacked downwards.
func bars(t *turnView, x, step float64) (out []barView) {
	counts := map[string]int{}
	for i := range t.Calls {
		counts[t.Calls[i].Tool]++
	}
	at, most := float64(chartBottom+8), float64(chartHeight-chartBottom-8)
	unit := min(barUnit, most/float64(max(1, len(t.Calls))))
	for _, tool := range []string{"evict", "compress", "swap_to_cpu"} {
		if n := counts[tool]; n > 0 {
			h := unit * float64(n)
			out = append(out, barView{x + step*0.2, at, step * 0.6, h, tool, fmt.Sprintf("turn %d: %d × %s", t.Number, n, tool)})
			at += h
		}
	}
	return out
}
