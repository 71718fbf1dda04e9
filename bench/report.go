package bench

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/klauspost/cpuid/v2"
	"github.com/kvgym/kvgym/kernels"
)

// Report is what was measured. Its JSON keys are promised to programs.
type Report struct {
	Machine string `json:"machine"` // operating system, architecture, number of cores
	CPU     string `json:"cpu"`     // the processor's own name for itself; "unknown" where it has none
	Cores   int    `json:"cores"`
	Go      string `json:"go"`
	Version string `json:"version"`
	Commit  string `json:"commit"`
	SIMD    string `json:"simd"`           // level of every result that does not say another
	NTStore string `json:"nt_store_level"` // level of nt-store, the machine's best

	Seed         uint64  `json:"seed"`
	Rounds       int     `json:"rounds"`
	TurnSeconds  float64 `json:"turn_seconds"`  // of a contestant in a round, about
	SecondsTotal float64 `json:"seconds_total"` // of everything, preparations included

	Results []Result  `json:"results"` // of kvgym
	Rivals  []Rival   `json:"rivals"`  // of the others, but for nt-store, which stands with the results
	Ratios  []Ratio   `json:"ratios"`
	Skipped []Skipped `json:"skipped"`
}

// Result is how fast kvgym steps one workload.
type Result struct {
	Name    string `json:"name"` // all that tells it from others, as key=value/...
	Profile string `json:"profile"`
	Envs    int    `json:"envs"`
	Workers int    `json:"workers"`
	Batches int    `json:"batches"` // that share the environments and the workers, and wait for each other at no step
	Slots   int    `json:"slots"`
	Obs     string `json:"obs"` // f32, u8 or none
	Level   string `json:"level"`
	Stores  string `json:"stores"` // of observations: stream, plain, or none

	EnvStepsPerSecond float64 `json:"env_steps_per_second"`     // median of the rounds
	Least             float64 `json:"env_steps_per_second_min"` // of the rounds
	Greatest          float64 `json:"env_steps_per_second_max"` // of the rounds
	NSPerEnvStep      float64 `json:"ns_per_env_step"`          // of the median; wall time, whatever the number of workers

	ObsBytesPerSecond     float64 `json:"obs_bytes_per_second"`      // 0 without observations
	NTStoreBytesPerSecond float64 `json:"nt_store_bytes_per_second"` // by as many threads into as much memory; 0 without observations, and for several batches
	AllocsPerStep         float64 `json:"allocs_per_step"`           // Go heap allocations of the process in a step of the whole batch, least of the rounds
}

// Rival is how fast another implementation is.
type Rival struct {
	Against           string  `json:"against"`
	Profile           string  `json:"profile,omitempty"` // empty: it plays another game
	Envs              int     `json:"envs"`              // of all its processes
	Workers           int     `json:"workers"`           // processes that were driven
	Settings          string  `json:"settings,omitempty"`
	EnvStepsPerSecond float64 `json:"env_steps_per_second"` // median of the rounds, as what follows is of it
	NSPerEnvStep      float64 `json:"ns_per_env_step"`
}

// Ratio is how many times as fast kvgym was, round by round.
type Ratio struct {
	Name    string  `json:"name"` // of the Result
	Profile string  `json:"profile"`
	Envs    int     `json:"envs"`
	Workers int     `json:"workers"`
	Batches int     `json:"batches"` // as in the Result
	Obs     string  `json:"obs"`
	Level   string  `json:"level"`
	Against string  `json:"against"`
	Median  float64 `json:"median"`
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
	Rounds  int     `json:"rounds"`
	Checked bool    `json:"checked"` // both have given the same bits for the same workload
}

// Skipped is a rival that was left out.
type Skipped struct {
	Against string `json:"against"`
	Why     string `json:"why"`
}

func newReport(c *Config, level kernels.Level) *Report {
	levels := kernels.Levels()
	cpu := cpuid.CPU.BrandName
	if cpu == "" {
		cpu = "unknown"
	}
	cores := runtime.NumCPU()
	return &Report{Machine: fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, cores), CPU: cpu, Cores: cores, Go: runtime.Version(),
		Version: c.Version, Commit: c.Commit, SIMD: level.String(), NTStore: levels[len(levels)-1].String(), Seed: c.Seed, Rounds: c.Rounds,
		TurnSeconds: c.Turn.Seconds(), Results: []Result{}, Rivals: []Rival{}, Ratios: []Ratio{}, Skipped: []Skipped{}}
}

// add takes a comparison's results over. What another one has measured already is only compared again.
func (rep *Report) add(cfg *Config, c *comparison) {
	for _, x := range c.contestants {
		rate := spreadOf(x.rates)
		switch x.name {
		case "nt-store":
		case kvgymName:
			if !rep.has(x.caseName(cfg.Slots)) {
				rep.Results = append(rep.Results, x.result(cfg.Slots, rate))
			}
		default:
			v := Rival{Against: x.name, Envs: x.envs, Workers: x.workers, Settings: x.settings, EnvStepsPerSecond: rate.median, NSPerEnvStep: 1e9 / rate.median}
			if x.obs != "" {
				v.Profile = x.profile.String()
			}
			rep.Rivals = append(rep.Rivals, v)
		}
	}
	for _, p := range c.pairs {
		against := p.against.rates
		if p.against == p.ours.stores { // bytes of observations over bytes
			perStep := float64(obsBytes(p.ours.obs, cfg.Slots))
			against = make([]float64, len(p.against.rates))
			for i, bytes := range p.against.rates {
				against[i] = bytes / perStep
			}
		}
		q := spreadOf(quotients(p.ours.rates, against))
		rep.Ratios = append(rep.Ratios, Ratio{Name: p.ours.caseName(cfg.Slots), Profile: p.ours.profile.String(), Envs: p.ours.envs, Workers: p.ours.workers,
			Batches: p.ours.batches, Obs: p.ours.obs, Level: p.ours.level.String(), Against: p.name, Median: q.median, Min: q.least, Max: q.greatest,
			Rounds: len(p.ours.rates), Checked: p.against.checked && p.against.envs == p.ours.envs})
	}
}

func (rep *Report) has(name string) bool {
	for i := range rep.Results {
		if rep.Results[i].Name == name {
			return true
		}
	}
	return false
}

func (x *contestant) caseName(slots int) string {
	name := fmt.Sprintf("profile=%s/envs=%d/workers=%d/slots=%d/obs=%s/level=%s", x.profile, x.envs, x.workers, slots, x.obs, x.level)
	if x.batches > 1 {
		name += fmt.Sprintf("/batches=%d", x.batches)
	}
	return name
}

func (x *contestant) result(slots int, rate spread) Result {
	res := Result{Name: x.caseName(slots), Profile: x.profile.String(), Envs: x.envs, Workers: x.workers, Batches: x.batches, Slots: slots, Obs: x.obs,
		Level: x.level.String(), Stores: "none", EnvStepsPerSecond: rate.median, Least: rate.least, Greatest: rate.greatest, NSPerEnvStep: 1e9 / rate.median,
		AllocsPerStep: spreadOf(x.allocs).least / cycle}
	if bytes := obsBytes(x.obs, slots); bytes > 0 {
		res.Stores = "plain"
		if x.stream {
			res.Stores = "stream"
		}
		res.ObsBytesPerSecond = rate.median * float64(bytes)
	}
	if x.stores != nil {
		res.NTStoreBytesPerSecond = spreadOf(x.stores.rates).median
	}
	return res
}

// Text is the report for people: a table of rates and one of ratios.
func (rep *Report) Text() string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s, %s, %s, simd %s, kvgym %s; %d rounds of %g s a turn\n", rep.CPU, rep.Machine, rep.Go, rep.SIMD, rep.Version, rep.Rounds, rep.TurnSeconds)
	t := newTable(&w, "what", "profile", ">envs", ">workers", "observation", "simd", ">M env-steps/s", ">ns", ">GB/s", ">nt-store GB/s", "stores", ">allocs a step")
	for i, r := range rep.Results {
		if i > 0 && r.group() != rep.Results[i-1].group() {
			t.AppendSeparator()
		}
		row := table.Row{kvgymName, r.Profile, r.Envs, workersOf(r.Workers, r.Batches), r.Obs, r.Level, millions(r.EnvStepsPerSecond), fmt.Sprintf("%.1f", r.NSPerEnvStep), "", "", "",
			fmt.Sprintf("%.3g", r.AllocsPerStep)}
		if r.ObsBytesPerSecond > 0 {
			row[8], row[9], row[10] = fmt.Sprintf("%.1f", r.ObsBytesPerSecond/1e9), "", r.Stores
		}
		if r.NTStoreBytesPerSecond > 0 {
			row[9] = fmt.Sprintf("%.1f", r.NTStoreBytesPerSecond/1e9)
		}
		t.AppendRow(row)
	}
	if len(rep.Rivals) > 0 {
		t.AppendSeparator()
	}
	for _, r := range rep.Rivals {
		obs := obsF32
		if r.Profile == "" {
			obs = ""
		}
		t.AppendRow(table.Row{r.Against, r.Profile, r.Envs, r.Workers, obs, "", millions(r.EnvStepsPerSecond), fmt.Sprintf("%.1f", r.NSPerEnvStep), "", "", "", ""})
	}
	t.Render()
	w.WriteByte('\n')
	last := ""
	t = newTable(&w, "times as fast as", "profile", ">envs", ">workers", "observation", "simd", ">median", ">min", ">max", "same bits")
	for i, r := range rep.byRival() {
		if i > 0 && r.Against != last {
			t.AppendSeparator()
		}
		last = r.Against
		checked := ""
		if r.Checked {
			checked = "checked"
		}
		t.AppendRow(table.Row{r.Against, r.Profile, r.Envs, workersOf(r.Workers, r.Batches), r.Obs, r.Level, fmt.Sprintf("%.2f", r.Median), fmt.Sprintf("%.2f", r.Min), fmt.Sprintf("%.2f", r.Max), checked})
	}
	t.Render()
	for _, s := range rep.Rivals {
		if s.Settings != "" {
			fmt.Fprintf(&w, "%s: %s\n", s.Against, s.Settings)
		}
	}
	return w.String()
}

// byRival are the ratios in the order of their rivals' first ones.
func (rep *Report) byRival() []Ratio {
	first := map[string]int{}
	for i, r := range rep.Ratios {
		if _, ok := first[r.Against]; !ok {
			first[r.Against] = i
		}
	}
	return slices.SortedStableFunc(slices.Values(rep.Ratios), func(a, b Ratio) int { return first[a.Against] - first[b.Against] })
}

// group is what the results between two lines of the table have in common.
func (r *Result) group() string { return fmt.Sprint(r.Profile, r.Envs) }

// workersOf says how many workers step, and in how many batches.
func workersOf(workers, batches int) string {
	if batches > 1 {
		return fmt.Sprintf("%d, %d batches", workers, batches)
	}
	return fmt.Sprint(workers)
}

func millions(rate float64) string {
	if rate < 1e5 {
		return fmt.Sprintf("%.4f", rate/1e6)
	}
	return fmt.Sprintf("%.2f", rate/1e6)
}

// newTable makes a table; columns whose names begin with > stand at the right.
func newTable(w *strings.Builder, columns ...string) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	header := table.Row{}
	var configs []table.ColumnConfig
	for i, name := range columns {
		name, right := strings.CutPrefix(name, ">")
		header = append(header, name)
		if right {
			configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.AppendHeader(header)
	t.SetColumnConfigs(configs)
	return t
}
