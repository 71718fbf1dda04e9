package rivals

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed c/*.c c/*.h
var cSources embed.FS

// cFlags are what a C author would measure with, less what may change a bit: no contraction of a product and a sum.
var cFlags = []string{"-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno"}

// BuildC compiles the C rival with $CC (gcc if that is not set) into a directory that exists, and returns the program's path.
func BuildC(ctx context.Context, dir string) (program string, err error) {
	compiler := strings.Fields(os.Getenv("CC"))
	if len(compiler) == 0 {
		compiler = []string{"gcc"}
	}
	if _, err := exec.LookPath(compiler[0]); err != nil {
		return "", fmt.Errorf("build the C rival: C compiler %s is missing (set CC to use another): %w", compiler[0], err)
	}
	sources := filepath.Join(dir, "kvgym-rival.src")
	if err := os.MkdirAll(sources, 0o755); err != nil {
		return "", fmt.Errorf("build the C rival: %w", err)
	}
	files, err := fs.Glob(cSources, "c/*")
	if err != nil {
		return "", fmt.Errorf("build the C rival: %w", err)
	}
	for _, f := range files {
		text, err := cSources.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(sources, filepath.Base(f)), text, 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("build the C rival: %w", err)
		}
	}
	program = filepath.Join(dir, "kvgym-rival")
	args := append(compiler[1:], cFlags...)
	args = append(args, "-o", program, filepath.Join(sources, "main.c"))
	var stderr tail
	cmd := exec.CommandContext(ctx, compiler[0], args...)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build the C rival: %s: %w: %s", strings.Join(cmd.Args, " "), errors.Join(ctx.Err(), err), stderr.String())
	}
	return program, nil
}
