// Package onnx computes small networks from ONNX files, exactly the same way on every machine: use it to let a trained policy play
// where neither Python nor an ONNX runtime is.
//
// It knows the few operators that examples/ppo.py writes (Operators) and refuses everything else by name. Arithmetic is in float32, in
// a fixed order and never fused, so results are equal bit by bit on all processors, and differ from PyTorch's in the last digits. A file
// may come from anybody: sizes, memory and work are bounded before anything is allocated.
package onnx
