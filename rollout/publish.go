package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/kvgym/kvgym/internal/outdir"
)

// folder is an output folder. A file gets its name only when it is whole and on disk, so a name is a promise.
type folder struct {
	outdir.Dir
	fingerprint string
}

// create makes the folder and those of the tables.
func (f *folder) create() error {
	for _, dir := range []string{f.Path, filepath.Join(f.Path, stepsTable), filepath.Join(f.Path, episodesTable)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return f.Unwritable(err)
		}
	}
	return nil
}

// digest takes a file's bytes as they are written or read.
type digest struct {
	hash  hash.Hash
	bytes int64
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) Write(p []byte) (int, error) {
	d.bytes += int64(len(p))
	return d.hash.Write(p)
}

// file describes the file whose bytes have been taken.
func (d *digest) file(name string, rows int64) fileOf {
	return fileOf{Path: filepath.ToSlash(name), Rows: rows, Bytes: d.bytes, SHA256: hex.EncodeToString(d.hash.Sum(nil))}
}

// describe reads a data file.
func (f *folder) describe(name string, rows int64) (fileOf, error) {
	in, err := os.Open(filepath.Join(f.Path, name))
	if err != nil {
		return fileOf{Path: filepath.ToSlash(name)}, err
	}
	defer in.Close()
	d := newDigest()
	_, err = io.Copy(d, in)
	return d.file(name, rows), err
}

// metaOf is what every data file says of itself.
func (f *folder) metaOf(id *identity, table string, s shard) []field {
	return []field{{"kvgym.config", id.json()}, {"kvgym.fingerprint", f.fingerprint}, {"kvgym.table", table},
		{"kvgym.shard", strconv.FormatInt(s.number, 10)}, {"kvgym.policy", s.group.policy}, {"kvgym.difficulty", s.group.difficulty.String()}}
}

// finished tells whether both files of a shard are there and are this rollout's. What is torn or foreign is not.
func (f *folder) finished(s shard, steps int) bool {
	return f.holds(stepsTable, s, s.n*int64(steps)) && f.holds(episodesTable, s, s.n)
}

func (f *folder) holds(table string, s shard, rows int64) bool {
	r, err := file.OpenParquetFile(filepath.Join(f.Path, partName(table, s.number)), false)
	if err != nil {
		return false
	}
	defer r.Close()
	meta := r.MetaData().KeyValueMetadata()
	says := func(key string) string {
		if v := meta.FindValue(key); v != nil {
			return *v
		}
		return ""
	}
	return r.NumRows() == rows && says("kvgym.fingerprint") == f.fingerprint && says("kvgym.shard") == strconv.FormatInt(s.number, 10) &&
		says("kvgym.table") == table
}

// clean removes unfinished files, and the files of shards that are not finished.
func (f *folder) clean(kept func(number int64) bool) error {
	for _, table := range []string{stepsTable, episodesTable} {
		entries, err := os.ReadDir(filepath.Join(f.Path, table))
		if err != nil {
			return fmt.Errorf("rollout: %w", err)
		}
		for _, e := range entries {
			number, isPart := partNumber(e.Name())
			if !strings.HasPrefix(e.Name(), outdir.TempPrefix) && (!isPart || kept(number)) {
				continue
			}
			if err := os.Remove(filepath.Join(f.Path, table, e.Name())); err != nil {
				return fmt.Errorf("rollout: %w", err)
			}
		}
	}
	return nil
}

// partNumber reads the number out of a part's name.
func partNumber(name string) (int64, bool) {
	middle, ok := strings.CutPrefix(name, "part-")
	middle, isParquet := strings.CutSuffix(middle, ".parquet")
	n, err := strconv.ParseInt(middle, 10, 64)
	return n, ok && isParquet && err == nil && n >= 0
}

// used tells whether the folder holds data of some rollout: a manifest, or a part (the manifest is written first).
func (f *folder) used() (bool, error) {
	for _, dir := range []string{"", stepsTable, episodesTable} {
		entries, err := os.ReadDir(filepath.Join(f.Path, dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, f.Unwritable(err)
		}
		for _, e := range entries {
			if _, isPart := partNumber(e.Name()); isPart || e.Name() == outdir.ManifestName {
				return true, nil
			}
		}
	}
	return false, nil
}
