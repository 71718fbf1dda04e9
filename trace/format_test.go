package trace

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// readAll returns every record of r, with blocks of its own.
func readAll(r *Reader) ([]Record, error) {
	var all []Record
	var rec Record
	for {
		err := r.Next(&rec)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if rec.Blocks != nil {
			rec.Blocks = append([]uint64{}, rec.Blocks...)
		}
		all = append(all, rec)
	}
}

func readString(t *testing.T, text string, o Options) ([]Record, error) {
	t.Helper()
	r, err := NewReader(strings.NewReader(text), "t", o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readAll(r)
}

func name(id string) uint64 { return hashText([]byte(id)) }

// Ensure that each sample is detected and gives exactly the records written
// out here by hand.
func TestSamples(t *testing.T) {
	for _, c := range []struct {
		file   string
		format Format
		skip   bool
		want   []Record
	}{
		{"mooncake.jsonl", Mooncake, false, []Record{
			{Line: 1, InputTokens: 1100, OutputTokens: 20, BlockTokens: 512, Blocks: []uint64{0, 1, 2}, Parent: -1, PriorityPct: 35},
			{Line: 2, InputTokens: 512, OutputTokens: 1, BlockTokens: 512, Blocks: []uint64{0}, Parent: -1, PriorityPct: 35},
			{Line: 4, TimeMicros: 3_000_000, InputTokens: 1700, OutputTokens: 33, BlockTokens: 512, Blocks: []uint64{0, 1, 3, 4}, Parent: -1, PriorityPct: 35},
			{Line: 5, TimeMicros: 3_000_500, InputTokens: 1, OutputTokens: 7, BlockTokens: 512, Blocks: []uint64{1<<64 - 1}, Parent: -1, PriorityPct: 35},
		}},
		{"dynamo.jsonl", Dynamo, false, []Record{
			{Line: 1, InputTokens: 1024, OutputTokens: 100, BlockTokens: 512, Blocks: []uint64{1, 2}, Session: name("a"), Parent: -1, PriorityPct: 35},
			// 250 ms after the previous turn of session a.
			{Line: 2, TimeMicros: 250_000, InputTokens: 1536, OutputTokens: 50, BlockTokens: 512, Blocks: []uint64{1, 2, 3}, Session: name("a"), Parent: -1, DelayMicros: 250_000, PriorityPct: 35},
			// Written 1100, but the computed 1250 came before; prompt cut to the ids.
			{Line: 3, TimeMicros: 250_000, InputTokens: 512, OutputTokens: 10, BlockTokens: 512, Blocks: []uint64{4}, Session: name("7"), Parent: -1, PriorityPct: 35},
			// A branch of r1, 500 ms of tool time after it; prompt length from the ids.
			{Line: 4, TimeMicros: 750_000, InputTokens: 1024, OutputTokens: 5, BlockTokens: 512, Blocks: []uint64{4, 5}, Session: name("b"), Parent: -1, DelayMicros: 500_000, Kind: KindSubagent, PriorityPct: 35},
			{Line: 5, TimeMicros: 752_500, InputTokens: 1025, OutputTokens: 5, BlockTokens: 512, Blocks: []uint64{4, 5, 6}, Session: name("b"), Parent: -1, DelayMicros: 2_500, Kind: KindSubagent, PriorityPct: 35},
			{Line: 6, TimeMicros: 3_000_000, InputTokens: 700, OutputTokens: 2, BlockTokens: 512, Blocks: []uint64{4, 8}, Session: name("7"), Parent: -1, DelayMicros: 30_000, PriorityPct: 35},
		}},
		{"bailian.jsonl", Bailian, false, []Record{
			{Line: 1, InputTokens: 40, OutputTokens: 132, BlockTokens: 16, Blocks: []uint64{5, 6, 7}, HasChat: true, Parent: -1, ChatID: 10, Turn: 1, PriorityPct: 35},
			{Line: 2, TimeMicros: 386_000, InputTokens: 16, OutputTokens: 3, BlockTokens: 16, Blocks: []uint64{5}, HasChat: true, Parent: -1, ChatID: 11, Turn: 1, Kind: KindAPI, PriorityPct: 25},
			{Line: 3, TimeMicros: 9_136_000, InputTokens: 64, OutputTokens: 8, BlockTokens: 16, Blocks: []uint64{5, 6, 8, 9}, HasChat: true, Parent: 10, ChatID: 12, Turn: 2, Kind: KindSearch, PriorityPct: 40},
			{Line: 4, TimeMicros: 9_136_000, InputTokens: 1, OutputTokens: 8, BlockTokens: 16, Blocks: []uint64{3}, HasChat: true, Parent: -1, ChatID: 13, Turn: 1, Kind: KindImage, PriorityPct: 45},
			{Line: 5, TimeMicros: 9_886_000, InputTokens: 1, OutputTokens: 8, BlockTokens: 16, Blocks: []uint64{3}, HasChat: true, Parent: -1, ChatID: 14, Turn: 1, Kind: KindFile, PriorityPct: 45},
			{Line: 6, TimeMicros: 10_886_000, InputTokens: 1, OutputTokens: 8, BlockTokens: 16, Blocks: []uint64{3}, HasChat: true, Parent: -1, ChatID: 15, Turn: 1, Kind: KindThinking, PriorityPct: 50},
			{Line: 7, TimeMicros: 11_886_000, InputTokens: 1, OutputTokens: 8, BlockTokens: 16, Blocks: []uint64{3}, HasChat: true, Parent: 99, ChatID: 16, Turn: 5, Kind: KindCoder, PriorityPct: 45},
			{Line: 8, TimeMicros: 12_886_000, InputTokens: 1, OutputTokens: 8, BlockTokens: 16, Blocks: []uint64{3}, HasChat: true, Parent: 12, ChatID: 17, PriorityPct: 35},
		}},
		{"azure_2023.csv", Azure, false, []Record{
			{Line: 2, InputTokens: 374, OutputTokens: 44, Parent: -1, PriorityPct: 35},
			{Line: 3, TimeMicros: 4_314_579, InputTokens: 396, OutputTokens: 109, Parent: -1, PriorityPct: 35},
			{Line: 4, TimeMicros: 20_653_319_410, InputTokens: 10, OutputTokens: 1, Parent: -1, PriorityPct: 35},
		}},
		{"azure_2024.csv", Azure, false, []Record{
			{Line: 2, InputTokens: 2162, OutputTokens: 5, Parent: -1, PriorityPct: 35},
			{Line: 3, TimeMicros: 7_405, InputTokens: 2399, OutputTokens: 6, Parent: -1, PriorityPct: 35},
			{Line: 4, TimeMicros: 990_070, InputTokens: 76, OutputTokens: 15, Parent: -1, PriorityPct: 35},
		}},
		{"burstgpt.csv", BurstGPT, false, []Record{
			{Line: 2, InputTokens: 472, OutputTokens: 18, Session: name("c1"), Parent: -1, PriorityPct: 35},
			{Line: 3, TimeMicros: 40_000_000, InputTokens: 1087, OutputTokens: 230, Parent: -1, Kind: KindAPI, PriorityPct: 45},
			{Line: 4, TimeMicros: 40_500_000, InputTokens: 417, OutputTokens: 276, Session: name("c1"), Parent: -1, PriorityPct: 60},
			{Line: 5, TimeMicros: 113_000_000, InputTokens: 12, OutputTokens: 3, Parent: -1, Kind: KindAPI, PriorityPct: 20},
		}},
		{"burstgpt_older.csv", BurstGPT, true, []Record{
			{Line: 2, InputTokens: 472, OutputTokens: 18, Parent: -1, PriorityPct: 35},
			{Line: 4, TimeMicros: 41_000_000, InputTokens: 9, OutputTokens: 2, Parent: -1, PriorityPct: 60},
		}},
		{"vidur.csv", Vidur, false, []Record{
			{Line: 2, InputTokens: 374, OutputTokens: 44, Parent: -1, PriorityPct: 35},
			{Line: 3, TimeMicros: 4_314_579, InputTokens: 396, OutputTokens: 109, Parent: -1, PriorityPct: 35},
			{Line: 4, TimeMicros: 5_892_655, InputTokens: 91, OutputTokens: 16, Parent: -1, PriorityPct: 35},
			{Line: 5, TimeMicros: 218_982_253, InputTokens: 33, OutputTokens: 12, Parent: -1, PriorityPct: 35},
		}},
	} {
		t.Run(c.file, func(t *testing.T) {
			for _, f := range []Format{Auto, "", c.format} {
				r, err := Open(filepath.Join("testdata", c.file), Options{Format: f, SkipBadLines: c.skip})
				require.NoError(t, err)
				got, err := readAll(r)
				require.NoError(t, err)
				require.Equal(t, c.format, r.Format())
				require.Equal(t, c.want, got)
				require.NoError(t, r.Close())
			}
		})
	}
}

const (
	mooncakeRow = `{"timestamp": 9, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}`
	dynamoRow   = `{"session_id": "s", "timestamp": 9, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}`
	bailianRow  = `{"chat_id": 1, "parent_chat_id": -1, "timestamp": 9.5, "input_length": 20, "output_length": 5, "type": "text", "turn": 1, "hash_ids": [1, 2]}`
	azureRow    = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:09+00:00,20,5"
	burstRow    = "Timestamp,Model,Request tokens,Response tokens\n9,GPT-4,20,5"
	vidurRow    = "arrived_at,num_prefill_tokens,num_decode_tokens\n9.5,20,5"
)

// Each case changes one thing of a good row and names the whole error.
func TestBadRows(t *testing.T) {
	for _, c := range []struct{ row, old, new, want string }{
		{mooncakeRow, `9,`, `"9",`, `timestamp: "9": allowed a number of milliseconds from 0 to 10000000000000`},
		{mooncakeRow, `9,`, `-9,`, `timestamp: -9: allowed a number of milliseconds from 0 to 10000000000000`},
		{mooncakeRow, `9,`, `1e40,`, `timestamp: 1e40: allowed a number of milliseconds from 0 to 10000000000000`},
		{mooncakeRow, `9,`, `8.999,`, `timestamp: 8.999: allowed times that never go back`},
		{mooncakeRow, `9,`, `null,`, `timestamp: null: allowed a number of milliseconds from 0 to 10000000000000`},
		{mooncakeRow, `"timestamp": 9, `, ``, `timestamp: missing: allowed a number of milliseconds from 0 to 10000000000000`},
		{mooncakeRow, `"input_length": 600, `, ``, `input_length: missing: allowed 1 to 2147483647`},
		{mooncakeRow, `600`, `0`, `input_length: 0: allowed 1 to 2147483647`},
		{mooncakeRow, `600`, `600.0`, `input_length: 600.0: allowed 1 to 2147483647`},
		{mooncakeRow, `600`, `-1`, `input_length: -1: allowed 1 to 2147483647`},
		{mooncakeRow, `600`, `2147483648`, `input_length: 2147483648: allowed 1 to 2147483647`},
		{mooncakeRow, `600`, `99999999999999999999`, `input_length: 99999999999999999999: allowed 1 to 2147483647`},
		{mooncakeRow, `600`, `1025`, `hash_ids: 2 ids: allowed 3 ids (input_length 1025 in blocks of 512 tokens)`},
		{mooncakeRow, `600`, `512`, `hash_ids: 2 ids: allowed 1 ids (input_length 512 in blocks of 512 tokens)`},
		{mooncakeRow, `: 5`, `: 0`, `output_length: 0: allowed 1 to 2147483647`},
		{mooncakeRow, `: 5`, `: true`, `output_length: true: allowed 1 to 2147483647`},
		{mooncakeRow, `[1, 2]`, `[1, 1]`, `hash_ids: 1: allowed each id once in a request`},
		{mooncakeRow, `[1, 2]`, `[1, null]`, `hash_ids: null: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `[1, 2]`, `[1, -2]`, `hash_ids: -2: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `[1, 2]`, `[1, 2.5]`, `hash_ids: 2.5: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `[1, 2]`, `[[1], 2]`, `hash_ids: [1]: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `[1, 2]`, `[1, 18446744073709551616]`, `hash_ids: 18446744073709551616: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `[1, 2]`, `[ ]`, `hash_ids: [ ]: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `[1, 2]`, `"12"`, `hash_ids: "12": allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `, "hash_ids": [1, 2]`, ``, `hash_ids: missing: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{mooncakeRow, `9,`, `NaN,`, `row: "{\"timestamp\": NaN, \"input_length\": 600, \"output_length\": 5, "...: allowed one JSON object a line (invalid character 'N' looking for beginning of value)`},
		{mooncakeRow, mooncakeRow, `[1]`, `row: [1]: allowed one JSON object a line (json: cannot unmarshal array into Go value of type trace.jsonRow)`},
		{mooncakeRow, mooncakeRow, "{\x00\xff", `row: "{\x00\xff": allowed one JSON object a line (invalid character '\x00' looking for beginning of object key string)`},
		{mooncakeRow, `2]}`, `2`, `row: "{\"timestamp\": 9, \"input_length\": 600, \"output_length\": 5, \"h"...: allowed one JSON object a line (unexpected end of JSON input)`},

		{dynamoRow, `9,`, `8,`, `timestamp: 8: allowed times that never go back`},
		{dynamoRow, `"s", "timestamp": 9,`, `"new", "delay": 4,`, `timestamp: missing: allowed a number of milliseconds from 0 to 10000000000000 on a session's first row`},
		{dynamoRow, `"s"`, `[1]`, `session_id: [1]: allowed a string or an integer`},
		{dynamoRow, `"s"`, `1.5`, `session_id: 1.5: allowed a string or an integer`},
		{dynamoRow, `9,`, `9, "delay": -1,`, `delay: -1: allowed a number of milliseconds from 0 to 10000000000000`},
		{dynamoRow, `9,`, `9, "delay_ms": "x",`, `delay_ms: "x": allowed a number of milliseconds from 0 to 10000000000000`},
		{dynamoRow, `9,`, `9, "tool_wait_ms": [],`, `tool_wait_ms: []: allowed a number of milliseconds from 0 to 10000000000000`},
		{dynamoRow, `"timestamp": 9,`, `"delay": 10000000000000,`, `delay: 10000000000000: allowed arrivals up to 10000000000000 milliseconds`},
		{dynamoRow, `600`, `512`, `hash_ids: 2 ids: allowed 1 ids (input_length 512 in blocks of 512 tokens)`},
		{dynamoRow, `600`, `0`, `input_length: 0: allowed 1 to 2147483647`},
		{dynamoRow, `[1, 2]`, `[]`, `hash_ids: []: allowed 1 to 1048576 integers from 0 to 18446744073709551615`},
		{dynamoRow, `[1, 2]`, `[3, 3]`, `hash_ids: 3: allowed each id once in a request`},

		{bailianRow, `"chat_id": 1, `, ``, `chat_id: missing: allowed an integer >= 0`},
		{bailianRow, `"chat_id": 1,`, `"chat_id": "1",`, `chat_id: "1": allowed an integer >= 0`},
		{bailianRow, `-1`, `-2`, `parent_chat_id: -2: allowed an integer >= -1 (-1: none)`},
		{bailianRow, `-1`, `1`, `parent_chat_id: 1: allowed another chat than chat_id`},
		{bailianRow, `9.5`, `9.4`, `timestamp: 9.4: allowed times that never go back`},
		{bailianRow, `20,`, `33,`, `hash_ids: 2 ids: allowed 3 ids (input_length 33 in blocks of 16 tokens)`},
		{bailianRow, `"text"`, `3`, `type: 3: allowed a string`},
		{bailianRow, `"turn": 1`, `"turn": -1`, `turn: -1: allowed 0 to 2147483647`},
		{bailianRow, `: 5`, `: 0`, `output_length: 0: allowed 1 to 2147483647`},

		{azureRow, `00:00:09`, `00:00:08`, `TIMESTAMP: 2024-05-10 00:00:08+00:00: allowed times that never go back`},
		{azureRow, `05-10`, `13-10`, `TIMESTAMP: 2024-13-10 00:00:09+00:00: allowed a time from 1970 on, like 2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00`},
		{azureRow, `20,5`, `,5`, `ContextTokens: missing: allowed 1 to 2147483647`},
		{azureRow, `20,5`, `20`, `row: 2024-05-10 00:00:09+00:00,20: allowed 3 fields, as the header has`},
		{azureRow, `20,5`, `20,5,6`, `row: 2024-05-10 00:00:09+00:00,20,5,6: allowed 3 fields, as the header has`},
		{azureRow, `20,5`, `2"0,5`, `row: 2024-05-10 00:00:09+00:00,2"0,5: allowed a CSV row (a quote is misplaced)`},
		{azureRow, `20,5`, `20,0`, `GeneratedTokens: 0: allowed 1 to 2147483647`},

		{burstRow, `20,5`, `20,0`, `Response tokens: 0: allowed >= 1 (a failed request)`},
		{burstRow, `20,5`, `20,nan`, `Response tokens: nan: allowed 1 to 2147483647`},
		{burstRow, `9,`, `-9,`, `Timestamp: -9: allowed a number of seconds from 0 to 10000000000`},
		{burstRow, `9,`, `8,`, `Timestamp: 8: allowed times that never go back`},

		{vidurRow, `9.5`, `NaN`, `arrived_at: NaN: allowed a number of seconds from 0 to 10000000000`},
		{vidurRow, `9.5`, `+Inf`, `arrived_at: +Inf: allowed a number of seconds from 0 to 10000000000`},
		{vidurRow, `9.5`, ``, `arrived_at: missing: allowed a number of seconds from 0 to 10000000000`},
		{vidurRow, `9.5`, `9.4999994`, `arrived_at: 9.4999994: allowed times that never go back`},
		{vidurRow, `20,`, `20.0,`, `num_prefill_tokens: 20.0: allowed 1 to 2147483647`},
	} {
		t.Run(c.new, func(t *testing.T) {
			// The good row comes first, so that detection and time have a base.
			at := strings.LastIndex(c.row, c.old)
			require.GreaterOrEqual(t, at, 0)
			changed := c.row[:at] + c.new + c.row[at+len(c.old):]
			_, row, csv := strings.Cut(changed, "\n")
			if !csv {
				row = changed
			}
			text := c.row + "\n" + row + "\n"
			line := strings.Count(text, "\n")

			got, err := readString(t, text, Options{})
			require.Len(t, got, 1)
			var bad *LineError
			require.True(t, errors.As(err, &bad))
			require.EqualError(t, err, "t:"+string(rune('0'+line))+": "+c.want)
			require.Equal(t, "t", bad.File)
			require.Equal(t, int64(line), bad.Line)
			require.True(t, strings.HasPrefix(c.want, bad.Field+": "))

			// Skipped, it is counted and the row after it is read.
			_, last, csv := strings.Cut(c.row, "\n")
			if !csv {
				last = c.row
			}
			r, err := NewReader(strings.NewReader(text+last), "t", Options{SkipBadLines: true})
			require.NoError(t, err)
			got, err = readAll(r)
			require.NoError(t, err)
			require.Len(t, got, 2)
			require.Equal(t, int64(1), r.BadLines())
			require.Equal(t, bad, r.FirstBad())
		})
	}
}

// Ensure that a Mooncake row printed from a record reads back as that record.
func TestMooncakePrintParse(t *testing.T) {
	text, err := os.ReadFile("testdata/mooncake.jsonl")
	require.NoError(t, err)
	first, err := readString(t, string(text), Options{})
	require.NoError(t, err)
	var out []byte
	for i := range first {
		s := synthSession{at: first[i].TimeMicros / 1000 * 1000, input: first[i].InputTokens, output: first[i].OutputTokens, blocks: first[i].Blocks}
		out = s.appendRow(out)
		first[i].TimeMicros = s.at
		first[i].Line = int64(i + 1)
	}
	again, err := readString(t, string(out), Options{})
	require.NoError(t, err)
	require.Equal(t, first, again)
}

func TestBlockTokensOption(t *testing.T) {
	row := strings.Replace(mooncakeRow, "600", "100", 1)
	got, err := readString(t, row, Options{BlockTokens: 64})
	require.NoError(t, err)
	require.Equal(t, int32(64), got[0].BlockTokens)
	_, err = readString(t, row, Options{BlockTokens: -1})
	require.EqualError(t, err, "block_tokens: -1: allowed 0 (the format's own) to 65536")
	got, err = readString(t, vidurRow, Options{BlockTokens: 64})
	require.NoError(t, err)
	require.Zero(t, got[0].BlockTokens)
}

// Ensure that a long or binary value cannot break a log.
func TestLineErrorIsShortAndOneLine(t *testing.T) {
	e := &LineError{File: "a\nb", Line: 3, Field: "row", Value: strings.Repeat("\n", 500), Allowed: "x"}
	require.Equal(t, `"a\nb":3: row: "`+strings.Repeat(`\n`, 60)+`"...: allowed x`, e.Error())
	e = &LineError{File: "f", Line: 1, Field: "row", Allowed: "x"}
	require.Equal(t, `f:1: row: "": allowed x`, e.Error())
}

func TestTooManyIDs(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"timestamp": 9, "input_length": 1048577, "output_length": 5, "hash_ids": [0`)
	for i := range MaxBlocks {
		b.WriteString("," + strings.Repeat(" ", i%2))
		b.Write([]byte{'1' + byte(i%9)})
		b.WriteString("0")
	}
	b.WriteString("]}")
	_, err := readString(t, b.String(), Options{BlockTokens: 1})
	require.EqualError(t, err, "t:1: hash_ids: over 1048576 ids: allowed 1 to 1048576 integers from 0 to 18446744073709551615")
}

// Ensure that dynamo's workflow fields are read where they make sense and do no
// harm where they do not.
func TestDynamoWorkflow(t *testing.T) {
	got, err := readString(t, strings.Join([]string{
		// Waits for a request the file lacks: the arrival is the last record's.
		`{"session_id": "\u0061", "wait_for": "gone", "delay": 2, "output_length": 1, "hash_ids": [1]}`,
		// The same session, its name written without the escape; a branch inside it.
		`{"session_id": "a", "request_id": "r1", "delay": 3, "output_length": 1, "hash_ids": [1], "branches": ["r2", {"x": 1}, null]}`,
		`{"session_id": "a", "request_id": "r2", "delay": 4, "output_length": 1, "hash_ids": [1], "wait_for": []}`,
		`{"session_id": "a", "delay": null, "timestamp": 50, "output_length": 1, "hash_ids": [1], "wait_for": 7.5}`,
		// A child by its parent's name, and the rest of its session.
		`{"session_id": "c", "parent_session_id": "a", "timestamp": 60, "output_length": 1, "hash_ids": [1]}`,
		`{"session_id": "c", "timestamp": 70, "output_length": 1, "hash_ids": [1]}`,
		// No session at all.
		`{"session_id": "", "timestamp": 80, "output_length": 1, "hash_ids": [1]}`,
	}, "\n"), Options{Format: Dynamo})
	require.NoError(t, err)
	require.Len(t, got, 7)
	for i, want := range []Record{
		{TimeMicros: 0, Session: name("a"), DelayMicros: 2_000},
		{TimeMicros: 3_000, Session: name("a"), DelayMicros: 3_000},
		{TimeMicros: 7_000, Session: name("a"), DelayMicros: 4_000, Kind: KindSubagent},
		{TimeMicros: 48_000, Session: name("a")},
		{TimeMicros: 58_000, Session: name("c"), Kind: KindSubagent},
		{TimeMicros: 68_000, Session: name("c"), Kind: KindSubagent},
		{TimeMicros: 78_000},
	} {
		want.Line, want.InputTokens, want.OutputTokens, want.BlockTokens = int64(i+1), 512, 1, 512
		want.Blocks, want.Parent, want.PriorityPct = []uint64{1}, -1, 35
		require.Equal(t, want, got[i], "row %d", i)
	}
}
