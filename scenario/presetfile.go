package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kvgym/kvgym/kv"
	"github.com/pelletier/go-toml/v2"
)

const (
	maxPresetBytes  = 1 << 20
	maxPresetName   = 60
	maxPresetSource = 500
	maxPresetDepth  = 8    // of lists and tables in JSON
	maxPresetKeys   = 4096 // of TOML, whose reader takes a time that grows with their square
)

// FindPreset is the preset of a name, or what a file holds if the name is one's.
func FindPreset(name string) (kv.Preset, error) {
	if IsPresetFile(name) {
		return LoadPreset(name)
	}
	return kv.PresetNamed(name)
}

// IsPresetFile tells whether FindPreset takes a name for that of a file.
func IsPresetFile(name string) bool { return checkExtension(filepath.Ext(name)) == nil }

// LoadPreset reads a preset from a .toml or .json file. The keys are those of kv.Preset and `base`, the name of a preset
// that the file changes; docs/serving.md shows one. Every error is one line that names the file.
func LoadPreset(path string) (kv.Preset, error) {
	data, err := readPresetFile(path)
	if err != nil {
		return kv.Preset{}, fmt.Errorf("preset file %s: %w", oneLine(path), err)
	}
	ext := filepath.Ext(path)
	p, err := parsePreset(data, ext, strings.TrimSuffix(filepath.Base(path), ext))
	if err != nil {
		return kv.Preset{}, fmt.Errorf("preset file %s: %w", oneLine(path), err)
	}
	return p, nil
}

func readPresetFile(path string) ([]byte, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, withoutPath(err)
	case info.IsDir():
		return nil, errors.New("a folder: allowed a .toml or .json file")
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file: allowed a .toml or .json file")
	}
	if err := checkExtension(filepath.Ext(path)); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPresetBytes+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(data) > maxPresetBytes {
		return nil, fmt.Errorf("size: more than %d bytes: allowed up to %d", maxPresetBytes, maxPresetBytes)
	}
	return data, nil
}

// withoutPath is what the system said of a file, without the name that our errors begin with.
func withoutPath(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func checkExtension(ext string) error {
	if e := strings.ToLower(ext); e != ".toml" && e != ".json" {
		return fmt.Errorf("extension: %s: allowed .toml, .json", show(ext))
	}
	return nil
}

// parsePreset makes a preset of a file's text; stem names it if the text has only a base.
func parsePreset(data []byte, ext, stem string) (kv.Preset, error) {
	if err := checkExtension(ext); err != nil {
		return kv.Preset{}, err
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	read := readTOML
	if strings.EqualFold(ext, ".json") {
		read = readJSON
	}
	keys, err := read(data)
	if err != nil {
		return kv.Preset{}, err
	}
	return presetOf(keys, stem)
}

// presetOf makes a preset of a file's keys.
func presetOf(keys map[string]any, stem string) (kv.Preset, error) {
	p, hasBase, err := presetBase(keys)
	if err != nil {
		return kv.Preset{}, err
	}
	base := p
	if hasBase {
		p.Name, p.Source = stem, "changed from "+base.Name+": "+base.Source
	}
	fields := presetFields(&p)
	if err := checkKeys("preset", keys, "base", fields); err != nil {
		return kv.Preset{}, err
	}
	for _, f := range fields {
		v, ok := keys[f.key]
		if !ok && !hasBase && !f.optional {
			return kv.Preset{}, fmt.Errorf("%s: none: allowed every key but source, disaggregated and curve_ns, or a base", f.key)
		}
		if ok {
			if err := assign(f.to, v); err != nil {
				return kv.Preset{}, fmt.Errorf("%s: %w", f.key, err)
			}
		}
	}
	if err := checkPresetNames(&p); err != nil {
		return kv.Preset{}, err
	}
	return p, p.Validate()
}

func presetBase(keys map[string]any) (p kv.Preset, ok bool, err error) {
	v, ok := keys["base"]
	if !ok {
		if _, named := keys["name"]; !named {
			return p, false, fmt.Errorf("base and name: none: allowed a base (%s), a name with all other keys, or both", presetNames())
		}
		return p, false, nil
	}
	name, isString := v.(string)
	for _, known := range kv.Presets() {
		if isString && known.Name == name {
			return known, true, nil
		}
	}
	return p, false, fmt.Errorf("base: %s: allowed %s", show(v), presetNames())
}

func presetNames() string {
	var names []string
	for _, p := range kv.Presets() {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

func checkPresetNames(p *kv.Preset) error {
	if !printable(p.Name, maxPresetName) || strings.TrimSpace(p.Name) == "" {
		return fmt.Errorf("name: %s: allowed 1 to %d printable characters (default the file's name)", show(p.Name), maxPresetName)
	}
	if _, err := kv.PresetNamed(p.Name); err == nil {
		return fmt.Errorf("name: %s: allowed a name that no built-in preset has", show(p.Name))
	}
	if !printable(p.Source, maxPresetSource) {
		return fmt.Errorf("source: %s: allowed up to %d printable characters", show(p.Source), maxPresetSource)
	}
	return nil
}

func printable(s string, most int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// field is one key and where its value goes.
type field struct {
	key      string
	to       any
	optional bool
}

func presetFields(p *kv.Preset) []field {
	return []field{
		{"name", &p.Name, false}, {"source", &p.Source, true},
		{"kv_bytes", &p.KVBytes, false}, {"capacity_tokens", &p.CapacityTokens, false},
		{"step_ms", &p.StepMillis, false}, {"prefill_permille", &p.PrefillPermille, false}, {"disaggregated", &p.Disaggregated, true},
		{"prefill", &p.Prefill, false}, {"pair_ps", &p.PairPS, false}, {"decode", &p.Decode, false}, {"ctx_ps", &p.CtxPS, false}, {"curve_ns", &p.CurveNS, true},
		{"link_ps", &p.LinkPS, false}, {"host_permille", &p.HostPermille, false}, {"compress_ps", &p.CompressPS, false},
		{"quality_permille", &p.QualityPermille, false},
	}
}

// checkKeys refuses keys that no field has.
func checkKeys(of string, keys map[string]any, more string, fields []field) error {
	known := []string{more}
	if more == "" {
		known = nil
	}
	for _, f := range fields {
		known = append(known, f.key)
	}
	var unknown []string
	for k := range keys {
		if !slices.Contains(known, k) {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return fmt.Errorf("%s key: %s: allowed %s", of, show(slices.Min(unknown)), strings.Join(known, ", "))
}

// assign puts a value of a file where it belongs.
func assign(to, v any) error {
	allowed := "a string"
	switch to := to.(type) {
	case *string:
		s, ok := v.(string)
		if *to = s; ok {
			return nil
		}
	case *bool:
		b, ok := v.(bool)
		if *to = b; ok {
			return nil
		}
		allowed = "true or false"
	case *int64:
		n, ok := whole(v)
		if *to = n; ok {
			return nil
		}
		allowed = "a whole number"
	case *[kv.NumQuants]int64:
		return assignQuality(to, v)
	case *[]kv.Knot:
		return assignKnots(to, v)
	}
	return fmt.Errorf("%s: allowed %s", show(v), allowed)
}

func assignQuality(to *[kv.NumQuants]int64, v any) error {
	list, ok := v.([]any)
	ok = ok && len(list) == len(to)
	for i := 0; ok && i < len(to); i++ {
		to[i], ok = whole(list[i])
	}
	if !ok {
		return fmt.Errorf("%s: allowed three whole numbers, for fp16, int8, int4", show(v))
	}
	return nil
}

func assignKnots(to *[]kv.Knot, v any) error {
	list, ok := v.([]any)
	if !ok {
		return fmt.Errorf("%s: allowed a list of knots, each with tokens and ns", show(v))
	}
	knots := make([]kv.Knot, len(list))
	for i, v := range list {
		keys, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("knot %d: %s: allowed tokens and ns", i, show(v))
		}
		if err := assignKnot(&knots[i], keys); err != nil {
			return fmt.Errorf("knot %d: %w", i, err)
		}
	}
	*to = knots
	return nil
}

func assignKnot(k *kv.Knot, keys map[string]any) error {
	fields := []field{{"tokens", &k.Tokens, false}, {"ns", &k.NS, false}}
	if err := checkKeys("knot", keys, "", fields); err != nil {
		return err
	}
	for _, f := range fields {
		v, ok := keys[f.key]
		if !ok {
			return fmt.Errorf("%s: none: allowed a whole number", f.key)
		}
		if err := assign(f.to, v); err != nil {
			return fmt.Errorf("%s: %w", f.key, err)
		}
	}
	return nil
}

// whole gives the integer that TOML or JSON has.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case json.Number:
		n, err := strconv.ParseInt(string(v), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// show is a value for an error message: short and on one line.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return strconv.Quote(cut(v))
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if _, err := strconv.ParseInt(s, 10, 64); err == nil {
			s += ".0"
		}
		return s
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	case map[string]any:
		return "a table"
	}
	return oneLine(cut(fmt.Sprint(v)))
}

func cut(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "..."
	}
	return s
}

// oneLine quotes what would not print as one line.
func oneLine(s string) string {
	if printable(s, len(s)) {
		return s
	}
	return strconv.Quote(s)
}

// atLine is an error at an offset of a text, with the line there, which shows the key and the value.
func atLine(data []byte, line int, what string) error {
	text := ""
	if lines := bytes.Split(data, []byte("\n")); line >= 1 && line <= len(lines) {
		text = string(bytes.TrimSpace(lines[line-1]))
	}
	return fmt.Errorf("line %d: %s: %s", line, show(text), oneLine(what))
}

func readTOML(data []byte) (map[string]any, error) {
	if n := bytes.Count(data, []byte("=")) + bytes.Count(data, []byte("[")); n > maxPresetKeys {
		return nil, fmt.Errorf("keys and tables: about %d: allowed up to %d", n, maxPresetKeys)
	}
	var keys map[string]any
	err := toml.Unmarshal(data, &keys)
	if err == nil {
		return keys, nil
	}
	what := strings.TrimPrefix(err.Error(), "toml: ")
	if de := (*toml.DecodeError)(nil); errors.As(err, &de) {
		row, _ := de.Position()
		return nil, atLine(data, row, what)
	}
	return nil, errors.New(oneLine(what))
}

// readJSON reads one object, and unlike json.Unmarshal refuses keys that come twice.
func readJSON(data []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := jsonValue(d, 0)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("text after the object: allowed one object")
		}
	}
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, atLine(data, 1+bytes.Count(data[:min(d.InputOffset(), int64(len(data)))], []byte("\n")), err.Error())
	}
	keys, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("json: %s: allowed an object", show(v))
	}
	return keys, nil
}

func jsonValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxPresetDepth {
		return nil, fmt.Errorf("nesting: deeper than %d: allowed up to %d", maxPresetDepth, maxPresetDepth)
	}
	var v any
	if open == '[' {
		v, err = jsonList(d, depth)
	} else {
		v, err = jsonTable(d, depth)
	}
	if err == nil {
		_, err = d.Token() // the closing one
	}
	return v, err
}

func jsonList(d *json.Decoder, depth int) ([]any, error) {
	list := []any{}
	for d.More() {
		v, err := jsonValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func jsonTable(d *json.Decoder, depth int) (map[string]any, error) {
	keys := map[string]any{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, err
		}
		key := k.(string) // the decoder lets nothing else be a key
		if _, twice := keys[key]; twice {
			return nil, fmt.Errorf("key %s twice: allowed once", show(key))
		}
		if keys[key], err = jsonValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
