package toolenv

import (
	"strings"

	"github.com/kvgym/kvgym/kv"
)

// Tool is one entry of the "tools" array of an OpenAI-compatible request; its JSON is that entry.
type Tool struct {
	Type     string   `json:"type"`
	Function Function `json:"function"`
}

// Function describes a tool to the model.
type Function struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Parameters  Parameters `json:"parameters"`
}

// Parameters is the JSON schema of a tool's arguments.
type Parameters struct {
	Type                 string              `json:"type"`
	Properties           map[string]Property `json:"properties"`
	Required             []string            `json:"required"`
	AdditionalProperties bool                `json:"additionalProperties"`
}

// Property is the JSON schema of one argument.
type Property struct {
	Type        string `json:"type"`
	Description string `json:"description"`
}

// toolNames are the tools by operation.
var toolNames = [kv.NumOps]string{kv.Keep: "keep", kv.Evict: "evict", kv.Compress: "compress", kv.Swap: "swap_to_cpu"}

const (
	seqID    = "seq_id" // the one argument that there is
	allTools = "evict, compress, swap_to_cpu, keep"
)

// Tools are the tools of both profiles; what they cost in each of them the system prompt says.
func Tools() []Tool {
	return []Tool{
		tool(kv.Evict, "Drop a sequence from the cache and free its GPU memory. A prefix that it shares with others stays while they hold it."),
		tool(kv.Compress, "Quantise a sequence one level down, fp16 to int8 to int4; each level halves its memory. There is no way back."),
		tool(kv.Swap, "Move a sequence to CPU memory and free its GPU memory."),
		tool(kv.Keep, "Change nothing."),
	}
}

func tool(op kv.Op, description string) Tool {
	p := Parameters{Type: "object", Properties: map[string]Property{}, Required: []string{}}
	if op != kv.Keep {
		p.Properties[seqID] = Property{"integer", "id of the sequence, as the observation lists it"}
		p.Required = []string{seqID}
	}
	return Tool{"function", Function{toolNames[op], description, p}}
}

// opOf is the operation of a tool's name.
func opOf(name string) (kv.Op, bool) {
	for op, n := range toolNames {
		if n == strings.TrimSpace(name) {
			return kv.Op(op), true
		}
	}
	return 0, false
}
