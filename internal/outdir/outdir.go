// Package outdir is a folder that a command writes its results to and may go on with later: files that are whole once they have their name, a
// lock, and the words for why a folder cannot be used. Use it wherever results are written, so that a crash leaves the same things behind everywhere.
package outdir

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Dir is the output folder of a command.
type Dir struct {
	Path  string
	Owner string // of whose results it holds, such as rollout; errors begin with it
}

// TempPrefix begins the names of unfinished files.
const TempPrefix = ".unfinished-"

// ManifestName is the file that says what a folder's results are of.
const ManifestName = "manifest.json"

// RefusedError tells that the output folder cannot be used as asked: it holds other results, or none to resume.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Refuse makes a RefusedError.
func Refuse(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// Publish writes a file under a temporary name in the same folder, syncs it and renames it. On an error nothing is left.
func (d Dir) Publish(name string, write func(io.Writer) error) (err error) {
	path := filepath.Join(d.Path, name)
	tmp, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*")
	if err != nil {
		return fmt.Errorf("%s: %s: %w", d.Owner, path, err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
			err = fmt.Errorf("%s: writing %s: %w", d.Owner, path, err)
		}
	}()
	w := bufio.NewWriterSize(tmp, 1<<20)
	for _, do := range []func() error{func() error { return write(w) }, w.Flush, tmp.Sync, func() error { return tmp.Chmod(0o644) }, tmp.Close,
		func() error { return os.Rename(tmp.Name(), path) }} {
		if err = do(); err != nil {
			return err
		}
	}
	return Sync(filepath.Dir(path))
}

// PublishJSON writes a document for people and programs.
func (d Dir) PublishJSON(name string, document any) error {
	return d.Publish(name, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(document)
	})
}

// Sync makes new names in a folder last.
func Sync(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Unwritable is the error for a folder that cannot be used for what the system says.
func (d Dir) Unwritable(err error) error {
	return fmt.Errorf("%s: out: %s: %w: allowed a folder that can be written", d.Owner, d.Path, err)
}

// Differences names the fields in which two JSON objects, without space in them, differ, those of objects within them one by one, with both values.
func Differences(there, here []byte) string {
	have, want := fields(there), fields(here)
	var names []string
	for n := range have {
		names = append(names, n)
	}
	for n := range want {
		if _, ok := have[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	var out []string
	for _, n := range names {
		if have[n] != want[n] {
			out = append(out, fmt.Sprintf("%s is %s there and %s here", n, stated(have[n]), stated(want[n])))
		}
	}
	return strings.Join(out, "; ")
}

// stated is a field's value for people.
func stated(value string) string {
	if value == "" {
		return "not given"
	}
	return value
}

// fields maps the names of an object's fields to their JSON texts.
func fields(object []byte) map[string]string {
	out := map[string]string{}
	addFields(out, "", object)
	return out
}

func addFields(out map[string]string, prefix string, object json.RawMessage) {
	values := map[string]json.RawMessage{}
	if err := json.Unmarshal(object, &values); err != nil {
		panic(fmt.Sprintf("outdir: %v", err)) // callers marshal them
	}
	for n, v := range values {
		if v[0] == '{' {
			addFields(out, prefix+n+".", v)
			continue
		}
		out[prefix+n] = string(v)
	}
}
