//go:build !unix

package outdir

// Lock does nothing where there is no flock: two must not write to one folder.
func (d Dir) Lock() (release func(), err error) { return func() {}, nil }
