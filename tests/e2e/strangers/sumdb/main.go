// Sumdb reads a whole Sift log with the code behind Go's checksum database, golang.org/x/mod/sumdb, and nothing of
// Sift's own: checkpoint and records with sumdb/note, tiles and proofs with sumdb/tlog.
//
//	sumdb -url http://127.0.0.1:1234 -log <vkey> -operator <vkey>
//
// It ends with 0 and one line of counts, or with 1 at the first thing that is wrong.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Tiles of C2SP tlog-tiles are 2^8 hashes wide.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// What is read over HTTP is never longer than a full bundle of the longest entries.
const bodyBytesMax = tileWidth*(2+65535) + 1

var (
	url      = flag.String("url", "", "where the log is")
	logKey   = flag.String("log", "", "the log's vkey")
	operator = flag.String("operator", "", "the operator's vkey")
)

func main() {
	flag.Parse()
	counts, err := check(&client{url: strings.TrimSuffix(*url, "/")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(counts)
}

// client reads from the log. It is a tlog.TileReader.
type client struct {
	url   string
	tiles int
}

func (c *client) get(path string) ([]byte, error) {
	http := http.Client{Timeout: 30 * time.Second}
	answer, err := http.Get(c.url + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, bodyBytesMax))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if answer.StatusCode != 200 {
		return nil, fmt.Errorf("%s: %d: %s", path, answer.StatusCode, body)
	}
	return body, nil
}

// Height is that of tlog-tiles.
func (c *client) Height() int { return tileHeight }

// ReadTiles fetches tiles. Go's own paths name the height, those of tlog-tiles do not.
func (c *client) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		path, ok := strings.CutPrefix(tile.Path(), "tile/8/")
		if !ok {
			return nil, fmt.Errorf("tile %v has another height", tile)
		}
		read, err := c.get("/tile/" + path)
		if err != nil {
			return nil, err
		}
		data = append(data, read)
		c.tiles++
	}
	return data, nil
}

// SaveTiles keeps nothing: every hash is read from the log each time.
func (c *client) SaveTiles([]tlog.Tile, [][]byte) {}

// checkpoint opens the note and reads its three lines.
func checkpoint(msg []byte, log note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(msg, note.VerifierList(log))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("checkpoint: %w", err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != log.Name() {
		return tlog.Tree{}, fmt.Errorf("checkpoint: not three lines of %s: %q", log.Name(), opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("checkpoint: %w", err)
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("checkpoint: %w", err)
	}
	return tlog.Tree{N: size, Hash: root}, nil
}

// entries reads all entry bundles.
func (c *client) entries(size int64) ([][]byte, error) {
	var entries [][]byte
	for n := int64(0); n*tileWidth < size; n++ {
		width := min(size-n*tileWidth, tileWidth)
		path := tlog.Tile{H: tileHeight, L: -1, N: n, W: int(width)}.Path()
		path = strings.Replace(path, "tile/8/data/", "/tile/entries/", 1)
		bundle, err := c.get(path)
		if err != nil {
			return nil, err
		}
		for len(bundle) > 0 {
			if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
				return nil, fmt.Errorf("%s ends within an entry", path)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			entries = append(entries, bundle[2:end])
			bundle = bundle[end:]
		}
	}
	if int64(len(entries)) != size {
		return nil, fmt.Errorf("%d entries in bundles, %d in the checkpoint", len(entries), size)
	}
	return entries, nil
}

// signatures opens every entry as a note with the keys that the operator's entries before it grant.
func signatures(entries [][]byte, operator note.Verifier) (err error) {
	granted := make(map[string]note.Verifier)
	for index, entry := range entries {
		isOperators := bytes.HasPrefix(entry, []byte("sift/operator@v1\n"))
		known := []note.Verifier{operator}
		if !isOperators {
			known = known[:0]
			for _, key := range granted {
				known = append(known, key)
			}
		}
		opened, err := note.Open(entry, note.VerifierList(known...))
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if len(opened.Sigs) != 1 || len(opened.UnverifiedSigs) != 0 {
			return fmt.Errorf("entry %d has %d known and %d unknown signatures", index, len(opened.Sigs), len(opened.UnverifiedSigs))
		}
		// Any other text is another note.
		changed := slices.Clone(entry)
		changed[len(opened.Text)/2] ^= 1
		if _, err := note.Open(changed, note.VerifierList(known...)); err == nil {
			return fmt.Errorf("entry %d is accepted with another text", index)
		}
		if !isOperators {
			continue
		}
		var record struct {
			Key struct {
				Grant, Revoke *struct{ Vkey string }
			}
		}
		_, line, _ := strings.Cut(opened.Text, "\n")
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if grant := record.Key.Grant; grant != nil {
			if granted[grant.Vkey], err = note.NewVerifier(grant.Vkey); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
		}
		if revoke := record.Key.Revoke; revoke != nil {
			delete(granted, revoke.Vkey)
		}
	}
	return nil
}

// stored makes the hashes that Go's own log server would store for these entries.
func stored(entries [][]byte) ([]tlog.Hash, tlog.HashReader, error) {
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var read []tlog.Hash
		for _, index := range indexes {
			if index >= int64(len(hashes)) {
				return nil, errors.New("no such hash")
			}
			read = append(read, hashes[index])
		}
		return read, nil
	})
	for n, entry := range entries {
		more, err := tlog.StoredHashes(int64(n), entry, reader)
		if err != nil {
			return nil, nil, err
		}
		hashes = append(hashes, more...)
	}
	return hashes, reader, nil
}

// proof asks the log for a proof.
func (c *client) proof(path string) ([]tlog.Hash, error) {
	body, err := c.get(path)
	if err != nil {
		return nil, err
	}
	var answer struct{ Hashes []string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var hashes []tlog.Hash
	for _, text := range answer.Hashes {
		hash, err := tlog.ParseHash(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

// receipt reads a C2SP tlog-proof and checks it: the checkpoint's note, and the entry in its tree.
func receipt(text []byte, log note.Verifier, entry []byte) (index int64, err error) {
	head, msg, _ := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
		return 0, errors.New("not a tlog-proof")
	}
	if index, err = strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64); err != nil {
		return 0, err
	}
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return 0, err
		}
		proof = append(proof, hash)
	}
	tree, err := checkpoint([]byte(msg), log)
	if err != nil {
		return 0, err
	}
	return index, tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry))
}

// sizes are trees worth asking about: all small ones, and those around the edges of tiles and at the end.
func sizes(size int64) []int64 {
	var found []int64
	for n := int64(1); n <= size; n++ {
		edge := n%tileWidth <= 1 || n%tileWidth == tileWidth-1
		if n <= 17 || edge || n&(n-1) == 0 || n >= size-2 {
			found = append(found, n)
		}
	}
	return found
}

func check(c *client) (string, error) {
	log, err := note.NewVerifier(*logKey)
	if err != nil {
		return "", fmt.Errorf("-log: %w", err)
	}
	operator, err := note.NewVerifier(*operator)
	if err != nil {
		return "", fmt.Errorf("-operator: %w", err)
	}
	// 1. The checkpoint, and that no other key signed it.
	msg, err := c.get("/checkpoint")
	if err != nil {
		return "", err
	}
	tree, err := checkpoint(msg, log)
	if err != nil {
		return "", err
	}
	if _, err := checkpoint(msg, operator); err == nil {
		return "", errors.New("the checkpoint opens with the operator's key")
	}
	// 2. Every entry is a note by a key that counts.
	entries, err := c.entries(tree.N)
	if err != nil {
		return "", err
	}
	if err := signatures(entries, operator); err != nil {
		return "", err
	}
	// 3. Entries make the signed root, and the tiles hold the same hashes, each authenticated by the root.
	hashes, reader, err := stored(entries)
	if err != nil {
		return "", err
	}
	root, err := tlog.TreeHash(tree.N, reader)
	if err != nil || root != tree.Hash {
		return "", fmt.Errorf("entries lead to the root %v, %v is signed (%v)", root, tree.Hash, err)
	}
	all := make([]int64, len(hashes))
	for index := range all {
		all[index] = int64(index)
	}
	tiled, err := tlog.TileHashReader(tree, c).ReadHashes(all)
	if err != nil || !slices.Equal(tiled, hashes) {
		return "", fmt.Errorf("the tiles hold other hashes than the entries make: %v", err)
	}
	// 4. Our proofs are those that Go makes, and Go's checks take them and nothing else.
	trees := sizes(tree.N)
	roots := make(map[int64]tlog.Hash)
	for _, size := range trees {
		if roots[size], err = tlog.TreeHash(size, reader); err != nil {
			return "", err
		}
	}
	records, consistencies := 0, 0
	for _, size := range trees {
		for _, n := range trees {
			if n > size {
				continue
			}
			if err := record(c, entries, reader, n-1, size, roots[size]); err != nil {
				return "", err
			}
			records++
			if err := consistency(c, reader, n, size, roots); err != nil {
				return "", err
			}
			consistencies++
		}
	}
	// 5. Every entry has a receipt.
	for index, entry := range entries {
		text, err := c.get(fmt.Sprintf("/v1/records/%d.tlog-proof", index))
		if err != nil {
			return "", err
		}
		if at, err := receipt(text, log, entry); err != nil || at != int64(index) {
			return "", fmt.Errorf("receipt of entry %d: for %d: %w", index, at, err)
		}
		if _, err := receipt(text, log, append(slices.Clone(entry), '\n')); err == nil {
			return "", fmt.Errorf("receipt of entry %d: taken for another entry", index)
		}
	}
	return fmt.Sprintf("%d entries signed, %d hashes in %d tiles, %d inclusion and %d consistency proofs, %d receipts",
		len(entries), len(hashes), c.tiles, records, consistencies, len(entries)), nil
}

func record(c *client, entries [][]byte, reader tlog.HashReader, n, size int64, root tlog.Hash) error {
	path := fmt.Sprintf("/v1/proof/inclusion?index=%d&size=%d", n, size)
	ours, err := c.proof(path)
	if err != nil {
		return err
	}
	theirs, err := tlog.ProveRecord(size, n, reader)
	if err != nil || !slices.Equal(ours, theirs) {
		return fmt.Errorf("%s: not the proof that Go makes (%v)", path, err)
	}
	leaf := tlog.RecordHash(entries[n])
	if err := tlog.CheckRecord(ours, size, root, n, leaf); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, wrong := range mutations(ours) {
		if tlog.CheckRecord(wrong, size, root, n, leaf) == nil {
			return fmt.Errorf("%s: Go accepts a changed proof", path)
		}
	}
	return nil
}

func consistency(c *client, reader tlog.HashReader, n, size int64, roots map[int64]tlog.Hash) error {
	path := fmt.Sprintf("/v1/proof/consistency?old=%d&new=%d", n, size)
	ours, err := c.proof(path)
	if err != nil {
		return err
	}
	theirs, err := tlog.ProveTree(size, n, reader)
	if err != nil || !slices.Equal(ours, theirs) {
		return fmt.Errorf("%s: not the proof that Go makes (%v)", path, err)
	}
	if err := tlog.CheckTree(ours, size, roots[size], n, roots[n]); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, wrong := range mutations(ours) {
		if tlog.CheckTree(wrong, size, roots[size], n, roots[n]) == nil {
			return fmt.Errorf("%s: Go accepts a changed proof", path)
		}
	}
	return nil
}

// mutations are a proof with a bit flipped in each hash in turn, one hash too many, one too few.
func mutations(proof []tlog.Hash) [][]tlog.Hash {
	found := [][]tlog.Hash{append(slices.Clone(proof), tlog.Hash{})}
	for at := range proof {
		wrong := slices.Clone(proof)
		wrong[at][0] ^= 1
		found = append(found, wrong)
	}
	if len(proof) > 0 {
		found = append(found, proof[1:], proof[:len(proof)-1])
	}
	return found
}
