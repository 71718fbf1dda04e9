// Package export is what stands behind the faces of kvgym outside Go: a batch described in words (Spec), and an Env that checks what
// foreign callers hand over. cmd/libkvgym gives it C names; docs/abi.md describes those.
package export
