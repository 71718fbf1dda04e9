package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/spf13/cobra"
)

// Set by the linker: make build passes the tree's description and commit.
var (
	version = "dev"
	commit  = ""
)

// buildVersion describes the program.
type buildVersion struct {
	Version   string   `json:"version"`
	Simulator string   `json:"simulator_version"`
	Commit    string   `json:"commit"`
	Go        string   `json:"go"`
	Levels    []string `json:"simd_levels"` // of this machine and build
	SIMD      string   `json:"simd"`        // the level in use
	Profiles  []string `json:"profiles"`
	Presets   []string `json:"presets"` // of the serving profile
	OS        string   `json:"os"`
	Arch      string   `json:"arch"`
}

func currentVersion() buildVersion {
	v := buildVersion{Version: version, Simulator: vecenv.SimulatorVersion, Commit: commit, Go: runtime.Version(), SIMD: kernels.Active().String(),
		Profiles: []string{vecenv.Seed.String(), vecenv.Serving.String()}, Presets: presetNames(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	for _, l := range kernels.Levels() {
		v.Levels = append(v.Levels, l.String())
	}
	if info, ok := debug.ReadBuildInfo(); ok && v.Commit == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	if v.Commit == "" {
		v.Commit = "unknown"
	}
	return v
}

func newVersionCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of the program and of the simulator's rules",
		Example: "  kvgym version --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := currentVersion()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "kvgym %s (commit %s, %s, %s/%s)\nsimulator rules version %s\nSIMD levels: %s (in use: %s)\nprofiles: %s\npresets: %s\n",
				v.Version, v.Commit, v.Go, v.OS, v.Arch, v.Simulator, strings.Join(v.Levels, ", "), v.SIMD, strings.Join(v.Profiles, ", "), strings.Join(v.Presets, ", "))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document on standard output")
	cmd.Flags().Bool("quiet", false, "print no messages; accepted everywhere")
	return cmd
}
