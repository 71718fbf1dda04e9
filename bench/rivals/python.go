package rivals

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

//go:embed python/*.py python/requirements.txt
var pythonFiles embed.FS

// WritePython writes the Python rivals into a directory, which it makes if need be: gymnasium_rival.py (argument sync or
// async) and cartpole_rival.py are programs for Start; requirements.txt says what they need.
func WritePython(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("rivals: %w", err)
	}
	files, err := fs.Glob(pythonFiles, "python/*")
	if err != nil {
		return fmt.Errorf("rivals: %w", err)
	}
	for _, name := range files {
		text, err := pythonFiles.ReadFile(name)
		if err != nil {
			return fmt.Errorf("rivals: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), text, 0o644); err != nil {
			return fmt.Errorf("rivals: %w", err)
		}
	}
	return nil
}

// FindPython returns the interpreter that has the rivals' packages: that named by KVGYM_BENCH_PYTHON, else the one in
// .venv-bench under root, the directory of the repository.
func FindPython(root string) (string, error) {
	if python := os.Getenv("KVGYM_BENCH_PYTHON"); python != "" {
		path, err := exec.LookPath(python)
		if err != nil {
			return "", fmt.Errorf("rivals: KVGYM_BENCH_PYTHON: %w", err)
		}
		return path, nil
	}
	python, err := filepath.Abs(filepath.Join(root, ".venv-bench", "bin", "python"))
	if err != nil {
		return "", fmt.Errorf("rivals: %w", err)
	}
	if _, err := exec.LookPath(python); err != nil {
		return "", fmt.Errorf("rivals: no Python interpreter at %s: make one with `make bench-venv`, or name one in KVGYM_BENCH_PYTHON", python)
	}
	return python, nil
}

// CartPole is a batch of CartPole environments for cartpole_rival.py.
type CartPole struct {
	Kind    string // "envpool" or "gymnasium-vector"
	Envs    int
	Batch   int // envpool: environments a step; below Envs, EnvPool steps asynchronously; 0 is Envs
	Threads int // envpool
	Steps   int // batches of a round
}

// InitCartPole is Init for cartpole_rival.py; it may come again.
func (p *Process) InitCartPole(c CartPole) error {
	line := fmt.Sprintf("init kind=%s envs=%d steps=%d", c.Kind, c.Envs, c.Steps)
	if c.Batch != 0 {
		line += fmt.Sprintf(" batch=%d", c.Batch)
	}
	if c.Threads != 0 {
		line += fmt.Sprintf(" threads=%d", c.Threads)
	}
	return p.expectOK("init", line)
}

// RunCartPole runs rounds and returns their time, measured by the process itself, and the environment steps made in it,
// those that only reset an environment included.
func (p *Process) RunCartPole(rounds int) (took time.Duration, steps int64, err error) {
	text, err := p.ask("run", fmt.Sprintf("run %d", rounds), "ns ")
	if err != nil {
		return 0, 0, err
	}
	if n, err := fmt.Sscanf(text, "%d %d", &took, &steps); n != 2 || took <= 0 || steps <= 0 {
		return 0, 0, p.failed("run", fmt.Errorf("answered %.60q: want nanoseconds and steps: %w", text, err))
	}
	return took, steps, nil
}
