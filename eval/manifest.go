package eval

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"github.com/kvgym/kvgym/internal/outdir"
)

// manifest describes a run's folder.
type manifest struct {
	Status   string     `json:"status"` // running or done
	Config   identity   `json:"config"`
	Endpoint *endpoints `json:"endpoint,omitempty"` // of the latest run
	Program  program    `json:"program"`
	Columns  []ColumnOf `json:"columns"` // of the Parquet file
	Summary  *Summary   `json:"summary,omitempty"`
}

// endpoints is how the model was asked, which is not part of what the results are of.
type endpoints struct {
	BaseURL    string  `json:"base_url"`
	MaxRetries int     `json:"max_retries"`
	Timeout    float64 `json:"timeout_seconds"`
	Concurrent int     `json:"max_concurrent"`
}

type program struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	CPUs    int    `json:"cpus"`
}

func (r *run) manifest(status string, sum *Summary) *manifest {
	m := &manifest{Status: status, Config: r.id, Columns: Columns(), Summary: sum,
		Program: program{r.cfg.Version, r.cfg.Commit, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()}}
	if e := r.cfg.Model; e != nil {
		u, err := url.Parse(e.BaseURL)
		if err == nil {
			m.Endpoint = &endpoints{u.Redacted(), e.MaxRetries, e.Timeout.Seconds(), r.cfg.Concurrent}
		}
	}
	return m
}

// admit tells whether the folder may be written to.
func (r *run) admit() error {
	path := filepath.Join(r.cfg.Out, outdir.ManifestName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(r.cfg.Out, ResultsName)); err == nil {
			return outdir.Refuse("eval: out: %s: holds %s but no %s: allowed a folder that an eval wrote", r.cfg.Out, ResultsName, outdir.ManifestName)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("eval: %w", err)
	}
	if !r.cfg.Resume {
		return outdir.Refuse("eval: out: %s: holds results already: allowed another folder, or resuming that one", r.cfg.Out)
	}
	var was struct {
		Config json.RawMessage `json:"config"`
	}
	var there bytes.Buffer
	if err := errors.Join(json.Unmarshal(text, &was), json.Compact(&there, was.Config)); err != nil || was.Config[0] != '{' {
		return outdir.Refuse("eval: %s: not one of ours: allowed the manifest that an eval wrote", path)
	}
	id, err := json.Marshal(&r.id)
	if err != nil {
		return err
	}
	if d := outdir.Differences(there.Bytes(), id); d != "" {
		return outdir.Refuse("eval: out: %s: holds results of another configuration, which cannot be resumed with this one: %s", r.cfg.Out, d)
	}
	return nil
}
