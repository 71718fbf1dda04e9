package scenario

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"
)

func builtin(t testing.TB, name string) kv.Preset {
	p, err := kv.PresetNamed(name)
	require.NoError(t, err)
	return p
}

// A file gives what differs from its base; the rest is the base's.
func TestLoadPresetExample(t *testing.T) {
	got, err := LoadPreset(filepath.Join("testdata", "preset", "example.toml"))
	require.NoError(t, err)
	want := builtin(t, "llama3-8b.a100")
	want.Name, want.Source = "llama3-8b.a100-shared-link", "half of a PCIe 4 link; KVQuant's 4 bit"
	want.LinkPS, want.HostPermille, want.QualityPermille = 10_486_000, 2000, [kv.NumQuants]int64{1000, 1000, 990}
	require.Equal(t, want, got)
	_, err = NewAgents(64, 15, All, got)
	require.NoError(t, err)
}

// A file without a base gives everything.
func TestLoadPresetComplete(t *testing.T) {
	got, err := LoadPreset(filepath.Join("testdata", "preset", "llama2-7b.json"))
	require.NoError(t, err)
	require.Equal(t, "llama2-7b.h100", got.Name)
	require.Equal(t, []int64{524_288, 121_000, 884, 223_600, 0, 10_486_000}, []int64{got.KVBytes, got.CapacityTokens, got.PairPS, got.CtxPS, got.CurveNS, got.LinkPS})
	require.Len(t, got.Prefill, 8)
	require.Equal(t, kv.Knot{Tokens: 256, NS: 9_150_000}, got.Decode[3])
	require.False(t, got.Disaggregated)
}

// Every key of every built-in preset survives a file, in both formats, also as a base of nothing but a name.
func TestLoadPresetRoundTrip(t *testing.T) {
	dir := t.TempDir()
	for _, p := range kv.Presets() {
		name := p.Name
		p.Name = "mine"
		asTOML, err := toml.Marshal(p)
		require.NoError(t, err)
		asJSON, err := json.Marshal(p)
		require.NoError(t, err)
		changed := p
		changed.Name, changed.Source = "changed", "changed from "+name+": "+p.Source
		for file, text := range map[string][]byte{"a.toml": asTOML, "a.json": asJSON, "bom.TOML": append([]byte("\ufeff"), asTOML...),
			"changed.toml": []byte("base = '" + name + "'\r\n"), "changed.json": fmt.Appendf(nil, `{"base": %q}`, name)} {
			path := filepath.Join(dir, file)
			require.NoError(t, os.WriteFile(path, text, 0o666))
			got, err := LoadPreset(path)
			require.NoError(t, err, file)
			if strings.HasPrefix(file, "changed") {
				require.Equal(t, changed, got, file)
			} else {
				require.Equal(t, p, got, file)
			}
			require.Equal(t, p.Fingerprint(), got.Fingerprint())
		}
	}
}

// The loader knows every field of a preset by the name of its tags.
func TestPresetFields(t *testing.T) {
	var p kv.Preset
	fields := presetFields(&p)
	of := reflect.TypeOf(p)
	require.Len(t, fields, of.NumField())
	for i, f := range fields {
		sf := of.Field(i)
		require.Equal(t, sf.Tag.Get("toml"), f.key)
		require.Equal(t, sf.Tag.Get("json"), f.key)
		require.Equal(t, reflect.ValueOf(&p).Elem().Field(i).Addr().Interface(), f.to, f.key)
		require.True(t, reflect.ValueOf(&p).Elem().Field(i).Addr().Pointer() == reflect.ValueOf(f.to).Pointer(), f.key)
	}
}

const based = "base = 'llama3-8b.a100'\nname = 'mine'\n"

// Each mistake gets one line that names the key, the value and what is allowed.
func TestParsePresetErrors(t *testing.T) {
	long := strings.Repeat("x", 61)
	for text, want := range map[string]string{
		"":                                       `base and name: none: allowed a base (llama3-8b.a100, llama3-70b.8xh100, deepseek-v3.h800-node, dynamo-mocker), a name with all other keys, or both`,
		"link_ps = 1":                            `base and name: none: allowed a base (llama3-8b.a100, `,
		"base = 'llama3'":                        `base: "llama3": allowed llama3-8b.a100, `,
		"base = 3":                               `base: 3: allowed llama3-8b.a100, `,
		"name = 'mine'":                          `kv_bytes: none: allowed every key but source, disaggregated and curve_ns, or a base`,
		based + "kv_byte = 1":                    `preset key: "kv_byte": allowed base, name, source, kv_bytes, `,
		based + "KV_BYTES = 1":                   `preset key: "KV_BYTES": allowed base, name, `,
		based + "[link]\nps = 1":                 `preset key: "link": allowed `,
		based + "link_ps = 'fast'":               `link_ps: "fast": allowed a whole number`,
		based + "link_ps = 1.5":                  `link_ps: 1.5: allowed a whole number`,
		based + "link_ps = 3.0":                  `link_ps: 3.0: allowed a whole number`,
		based + "link_ps = 1e400":                `line 3: "link_ps = 1e400": `,
		based + "link_ps = 2020-01-01":           `link_ps: 2020-01-01: allowed a whole number`,
		based + "link_ps = true":                 `link_ps: true: allowed a whole number`,
		based + "link_ps = [1]":                  `link_ps: a list of 1: allowed a whole number`,
		based + "link_ps.x = 1":                  `link_ps: a table: allowed a whole number`,
		based + "link_ps = 0":                    `preset "mine": link_ps: 0: allowed 1 to `,
		based + "link_ps = -1":                   `preset "mine": link_ps: -1: allowed 1 to `,
		based + "link_ps = 99999999999999999999": `line 3: "link_ps = 99999999999999999999": `,
		based + "link_ps = 1\nlink_ps = 2":       `line 4: "link_ps = 2": `,
		based + "link_ps =":                      `line 3: "link_ps =": `,
		based + "disaggregated = 1":              `disaggregated: 1: allowed true or false`,
		based + "source = 1":                     `source: 1: allowed a string`,
		based + "source = \"a\\nb\"":             `source: "a\nb": allowed up to 500 printable characters`,
		based + "quality_permille = [1, 2]":      `quality_permille: a list of 2: allowed three whole numbers, for fp16, int8, int4`,
		based + "quality_permille = [1, 2, 3.5]": `quality_permille: a list of 3: allowed three whole numbers`,
		based + "quality_permille = 1":           `quality_permille: 1: allowed three whole numbers`,
		based + "quality_permille = [1,2,1001]":  `preset "mine": quality_permille[2]: 1001: allowed 0 to 1000`,
		based + "prefill = 1":                    `prefill: 1: allowed a list of knots, each with tokens and ns`,
		based + "prefill = []":                   `preset "mine": prefill: 0 knots: allowed 2 to 64`,
		based + "prefill = [1]":                  `prefill: knot 0: 1: allowed tokens and ns`,
		based + "[[decode]]\ntokens = 1":         `decode: knot 0: ns: none: allowed a whole number`,
		based + "[[decode]]\ntokens = 1\nms=1":   `decode: knot 0: knot key: "ms": allowed tokens, ns`,
		based + "[[decode]]\ntokens = 1\nns='x'": `decode: knot 0: ns: "x": allowed a whole number`,
		based + "[[decode]]\ntokens=2\nns=1\n[[decode]]\ntokens=2\nns=1": `preset "mine": decode knot 1: 2 tokens in 1 ns: allowed more tokens than before`,
		"base = 'llama3-8b.a100'\nname = ''":                             `name: "": allowed 1 to 60 printable characters (default the file's name)`,
		"base = 'llama3-8b.a100'\nname = ' '":                            `name: " ": allowed 1 to 60`,
		"base = 'llama3-8b.a100'\nname = '" + long + "'":                 `name: "` + long[:60] + `...": allowed 1 to 60`,
		"base = 'llama3-8b.a100'\nname = 'llama3-8b.a100'":               `name: "llama3-8b.a100": allowed a name that no built-in preset has`,
		"base = 'llama3-8b.a100'\nname = \"a\\tb\"":                      `name: "a\tb": allowed 1 to 60`,
		"base = 'llama3-8b.a100'\nname = 7":                              `name: 7: allowed a string`,
		strings.Repeat("[x]\n", 4097):                                    `keys and tables: about 4097: allowed up to 4096`,
		"{":                                                              `line 1: "{": `,
	} {
		_, err := parsePreset([]byte(text), ".toml", "file")
		require.Error(t, err, text)
		require.True(t, strings.HasPrefix(err.Error(), want), "%q\n got %s\nwant %s", text, err, want)
		require.True(t, printable(err.Error(), 1000), "%q: %s", text, err)
	}
}

func TestParsePresetJSONErrors(t *testing.T) {
	for text, want := range map[string]string{
		``:                                     `line 1: "": unexpected EOF`,
		`[]`:                                   `json: a list of 0: allowed an object`,
		`null`:                                 `json: null: allowed an object`,
		`{"base": "dynamo-mocker"`:             `line 1: `,
		"{\n\"base\": \"dynamo-mocker\",\n}":   `line 3: `,
		`{"base": "dynamo-mocker"} {}`:         `line 1: `,
		`{"base": "dynamo-mocker", "base": 1}`: `line 1: "{\"base\": \"dynamo-mocker\", \"base\": 1}": key "base" twice: allowed once`,
		`{"base": "dynamo-mocker", "step_ms": 1e3}`:                                                       `step_ms: 1e3: allowed a whole number`,
		`{"base": "dynamo-mocker", "step_ms": 1.0}`:                                                       `step_ms: 1.0: allowed a whole number`,
		`{"base": "dynamo-mocker", "step_ms": null}`:                                                      `step_ms: null: allowed a whole number`,
		`{"base": "dynamo-mocker", "step_ms": 99999999999999999999}`:                                      `step_ms: 99999999999999999999: allowed a whole number`,
		`{"base": "dynamo-mocker", "Step_ms": 1000}`:                                                      `preset key: "Step_ms": allowed `,
		`{"base": "dynamo-mocker", "prefill": {"tokens": 1, "ns": 1}}`:                                    `prefill: a table: allowed a list of knots`,
		`{"base": "dynamo-mocker", "prefill": ` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}`: `line 1: `,
		`{1: 2}`: `line 1: `,
	} {
		_, err := parsePreset([]byte(text), ".json", "file")
		require.Error(t, err, text)
		require.True(t, strings.HasPrefix(err.Error(), want), "%q\n got %s\nwant %s", text, err, want)
		require.True(t, printable(err.Error(), 1000), "%q: %s", text, err)
	}
}

// What is wrong with the file itself.
func TestLoadPresetFileErrors(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, text, 0o666))
		return path
	}
	folder := filepath.Join(dir, "folder.toml")
	require.NoError(t, os.Mkdir(folder, 0o777))
	full := append([]byte("base = 'dynamo-mocker' #"), bytes.Repeat([]byte("x"), maxPresetBytes)...)
	for path, want := range map[string]string{
		filepath.Join(dir, "none.toml"):  "no such file or directory",
		folder:                           "a folder: allowed a .toml or .json file",
		put("a.yaml", []byte("x")):       `extension: ".yaml": allowed .toml, .json`,
		put("bare", []byte("x")):         `extension: "": allowed .toml, .json`,
		put("big.toml", full):            "size: more than 1048576 bytes: allowed up to 1048576",
		put("bad.toml", []byte("x = 1")): "base and name: none: allowed ",
		put("dynamo-mocker.json", []byte(`{"base": "dynamo-mocker"}`)): `name: "dynamo-mocker": allowed a name that no built-in preset has`,
	} {
		_, err := LoadPreset(path)
		require.Error(t, err, path)
		require.True(t, strings.HasPrefix(err.Error(), "preset file "+path+": "+want), "%s\nwant %s", err, want)
	}
	path := put("fits.toml", full[:maxPresetBytes])
	_, err := LoadPreset(path)
	require.NoError(t, err)
}

// FuzzParsePreset feeds any bytes to both formats: no panic, errors of one line, and presets that are valid and that a file
// can hold again.
func FuzzParsePreset(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "preset", "*.*"))
	require.NoError(f, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(text, filepath.Ext(name) == ".json", "file")
	}
	for _, text := range []string{based + "prefill = [{tokens = 1, ns = 2}, {tokens = 3, ns = 4}]", "name = 1", "\ufeff", "a.b.c = [1979-05-27T07:32:00Z, inf, nan]"} {
		f.Add([]byte(text), false, "\n")
	}
	for _, text := range []string{`{"base": "dynamo-mocker", "decode": [{"tokens": 1, "ns": 2}, {"tokens": 3, "ns": 4}]}`, `{"a": [[[{}]]]}`, `{"a"`} {
		f.Add([]byte(text), true, "stem")
	}
	f.Fuzz(func(t *testing.T, data []byte, isJSON bool, stem string) {
		ext := ".toml"
		if isJSON {
			ext = ".json"
		}
		p, err := parsePreset(data, ext, stem)
		if err != nil {
			require.True(t, printable(err.Error(), 4000), "%s", err)
			return
		}
		require.NoError(t, p.Validate())
		text, err := json.Marshal(p)
		require.NoError(t, err)
		again, err := parsePreset(text, ".json", "")
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}

func readServingPage(t *testing.T) string {
	text, err := os.ReadFile(filepath.Join("..", "docs", "serving.md"))
	require.NoError(t, err)
	return string(text)
}

// The page's example of a preset file is one.
func TestPageExample(t *testing.T) {
	_, rest, ok := strings.Cut(readServingPage(t), "```toml\n")
	require.True(t, ok)
	text, _, ok := strings.Cut(rest, "```")
	require.True(t, ok)
	path := filepath.Join(t.TempDir(), "mine.toml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
	p, err := LoadPreset(path)
	require.NoError(t, err)
	require.Equal(t, "llama3-8b.gh200", p.Name)
	require.InDelta(t, 131_072/300.0*1000, p.LinkPS, 1)
	require.Len(t, p.Prefill, 3)
	require.EqualValues(t, 131_072, p.KVBytes)
}

// The page's tables are what the presets and their functions give.
func TestPageTables(t *testing.T) {
	page := readServingPage(t)
	var missing []string
	for _, row := range slices.Concat(presetRows(), knotRows(t, page), figureRows(t), breakEvenRows()) {
		if !strings.Contains(page, "\n"+row) {
			missing = append(missing, row)
		}
	}
	require.Empty(t, missing, "docs/serving.md does not have these rows:\n%s", strings.Join(missing, "\n"))
}

// presetRows are the beginnings of the rows of the presets' table.
func presetRows() (rows []string) {
	presets := kv.Presets()
	for i, f := range presetFields(&presets[0]) {
		row := "| " + f.key
		if _, ok := f.to.(*[]kv.Knot); ok {
			row += ", ms"
		}
		for k := range presets {
			p := &presets[k]
			if f.key == "decode" && slices.Equal(p.Decode, p.Prefill) {
				row += " | as prefill"
			} else {
				row += " | " + cell(presetFields(p)[i].to)
			}
		}
		if f.key != "name" && f.key != "source" {
			rows = append(rows, row+" | ")
		}
	}
	return rows
}

func cell(v any) string {
	switch v := v.(type) {
	case *int64:
		return thousands(*v)
	case *bool:
		return strconv.FormatBool(*v)
	case *[]kv.Knot:
		var out []string
		for _, k := range *v {
			out = append(out, fmt.Sprintf("%d: %.2f", k.Tokens, float64(k.NS)/1e6))
		}
		return strings.Join(out, ", ")
	case *[kv.NumQuants]int64:
		return thousands(v[0]) + ", " + thousands(v[1]) + ", " + thousands(v[2])
	}
	return ""
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// knotRows makes the rows "ours" and "error %" that belong to the page's rows "measured", whose tables begin with the tokens.
func knotRows(t *testing.T, page string) (rows []string) {
	var tokens []string
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		if cells[0] == "tokens" {
			tokens = cells[1:]
		}
		name, ok := strings.CutSuffix(cells[0], ", measured")
		if !ok {
			continue
		}
		p := builtin(t, name)
		p.PairPS = 0
		ours, off := "| "+name+", ours", "| "+name+", error %"
		require.Len(t, cells[1:], len(tokens), line)
		for i, c := range cells[1:] {
			n, err := strconv.ParseInt(strings.ReplaceAll(tokens[i], ",", ""), 10, 64)
			require.NoError(t, err)
			ms := float64(p.PrefillNS(n, 0)) / 1e6
			ours += fmt.Sprintf(" | %.2f", ms)
			if c == "-" {
				off += " | -"
				continue
			}
			measured, err := strconv.ParseFloat(c, 64)
			require.NoError(t, err)
			off += " | " + percentOff(ms, measured)
		}
		rows = append(rows, ours+" |\n", off+" |\n")
	}
	require.Len(t, rows, 8)
	return rows
}

func percentOff(ours, published float64) string {
	return fmt.Sprintf("%.1f", math.Round(1000*(ours/published-1))/10+0) // + 0 makes -0 a 0
}

// figureRows compare single figures.
func figureRows(t *testing.T) (rows []string) {
	v3, mocker := builtin(t, "deepseek-v3.h800-node"), builtin(t, "dynamo-mocker")
	add := func(what string, published, ours float64) {
		rows = append(rows, fmt.Sprintf("| %s | %.2f | %.2f | %s |\n", what, published, ours, percentOff(ours, published)))
	}
	add("DeepSeek, thousand prompt tokens computed a second", 73.7*(1-0.563), 1e6/float64(v3.PrefillNS(1000, 0))*1000)
	add("DeepSeek, a decode step of 705 sequences of 4,989 tokens, ms", 705/14.8, float64(v3.DecodeStepNS(705, 705*4989))/1e6)
	for _, n := range []float64{1024, 8192} {
		add("mocker, prefill of "+thousands(int64(n))+" tokens, ms", 4.209989e-07*n*n+1.518344e-02*n+16.50142, float64(mocker.PrefillNS(int64(n), 0))/1e6)
	}
	for _, u := range []float64{0.5, 1} {
		add(fmt.Sprintf("mocker, a decode step at u = %.1f, ms", u), -25.74*u*u+54.01*u+5.74, float64(mocker.DecodeStepNS(32, int64(u*(1<<20))))/1e6)
	}
	return rows
}

// breakEvenRows compare loading a token with computing it again, at the slope beyond the last knot.
func breakEvenRows() (rows []string) {
	for _, p := range kv.Presets() {
		linear := p
		linear.PairPS = 0
		slope := float64(linear.PrefillNS(1<<16, 0)-linear.PrefillNS(1<<15, 0)) / (1 << 15)
		deep := slope + float64(p.PairPS)*32_768/1000
		link := float64(p.LinkPS) / 1000
		rows = append(rows, fmt.Sprintf("| %s | %.2f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", p.Name, link/1000, slope/1000, slope/link, deep/1000, deep/link, float64(p.KVBytes)/slope))
	}
	return rows
}
