// Witness asks a C2SP witness for cosignatures as a log does that knows nothing of Sift: trees and proofs by
// golang.org/x/mod/sumdb/tlog, notes by sumdb/note, cosignatures by filippo.io/torchwood.
//
//	witness -url http://127.0.0.1:1234 -witness <vkey> -log <signer key>
//
// The witness knows the log and has cosigned nothing of it yet. The steps are those that other witnesses are tested by:
// what torchwood's litewitness, sigsum-go and Azul expect. It ends with 0 and the steps, or with 1 at the first that fails.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	url     = flag.String("url", "", "where the witness is")
	witness = flag.String("witness", "", "the witness's vkey")
	logKey  = flag.String("log", "", "the log's private key")
)

func main() {
	flag.Parse()
	if err := play(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// tree is a log's, in memory.
type tree struct {
	stored tlog.HashReaderFunc
	hashes []tlog.Hash
}

func newTree(history string, size int64) (*tree, error) {
	t := &tree{}
	t.stored = func(indexes []int64) ([]tlog.Hash, error) {
		var found []tlog.Hash
		for _, index := range indexes {
			if index >= int64(len(t.hashes)) {
				return nil, errors.New("no such hash")
			}
			found = append(found, t.hashes[index])
		}
		return found, nil
	}
	for n := range size {
		hashes, err := tlog.StoredHashes(n, fmt.Appendf(nil, "%s %d", history, n), t.stored)
		if err != nil {
			return nil, err
		}
		t.hashes = append(t.hashes, hashes...)
	}
	return t, nil
}

// checkpoint is the tree at a size, signed.
func (t *tree) checkpoint(size int64, signer note.Signer) (string, error) {
	root, err := tlog.TreeHash(size, t.stored)
	if err != nil {
		return "", err
	}
	return signed(torchwood.Checkpoint{Origin: signer.Name(), Tree: tlog.Tree{N: size, Hash: root}}, signer)
}

func signed(checkpoint torchwood.Checkpoint, signer note.Signer) (string, error) {
	text, err := note.Sign(&note.Note{Text: checkpoint.String()}, signer)
	return string(text), err
}

// proof is the consistency proof between two sizes, a line for each hash.
func (t *tree) proof(old, size int64) (string, error) {
	if old == 0 || old == size {
		return "", nil
	}
	proof, err := tlog.ProveTree(size, old, t.stored)
	lines := ""
	for _, hash := range proof {
		lines += base64.StdEncoding.EncodeToString(hash[:]) + "\n"
	}
	return lines, err
}

func post(body string) (status int, media string, answer []byte, err error) {
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Post(*url+"/add-checkpoint", "text/plain", strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, response.Header.Get("content-type"), answer, err
}

// step is a request and what must be answered; of a 409, with which size.
type step struct {
	what, body string
	status     int
	stated     string
}

func play() error {
	signer, err := note.NewSigner(*logKey)
	if err != nil {
		return err
	}
	verifier, err := torchwood.NewCosignatureVerifier(*witness)
	if err != nil {
		return err
	}
	ours, err := newTree("leaf", 600)
	if err != nil {
		return err
	}
	fork, err := newTree("other", 600)
	if err != nil {
		return err
	}
	steps, err := script(ours, fork, signer)
	if err != nil {
		return err
	}
	for _, step := range steps {
		status, media, answer, err := post(step.body)
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if status != step.status {
			return fmt.Errorf("%s: %d instead of %d: %s", step.what, status, step.status, answer)
		}
		switch status {
		case http.StatusOK:
			if err := cosigned(step.body, answer, verifier); err != nil {
				return fmt.Errorf("%s: %w: %s", step.what, err, answer)
			}
		case http.StatusConflict:
			if media != "text/x.tlog.size" || string(answer) != step.stated+"\n" {
				return fmt.Errorf("%s: %q with %q instead of %s", step.what, media, answer, step.stated)
			}
		}
		fmt.Printf("%d  %s\n", status, step.what)
	}
	return monitored(signer.Name(), verifier)
}

// cosigned checks that an answer, put after the note that was sent, is a cosignature of it, not at time 0.
func cosigned(body string, answer []byte, verifier note.Verifier) error {
	_, sent, _ := strings.Cut(body, "\n\n")
	opened, err := note.Open(append([]byte(sent), answer...), note.VerifierList(verifier))
	if err != nil {
		return err
	}
	time, err := torchwood.CosignatureTimestamp(opened.Sigs[0])
	if err == nil && time == 0 {
		err = errors.New("cosigned at time 0")
	}
	return err
}

// monitored reads what was cosigned last where monitors look for it.
func monitored(origin string, verifier note.Verifier) error {
	response, err := http.Get(fmt.Sprintf("%s/%x/checkpoint", *url, sha256.Sum256([]byte(origin))))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	latest, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	opened, err := note.Open(latest, note.VerifierList(verifier))
	if err != nil {
		return fmt.Errorf("monitoring: %w: %s", err, latest)
	}
	checkpoint, err := torchwood.ParseCheckpoint(opened.Text)
	if err != nil || checkpoint.N != 600 {
		return fmt.Errorf("monitoring: %v, %v", checkpoint, err)
	}
	fmt.Printf("%d  monitoring\n", response.StatusCode)
	return nil
}

// script is what is sent, in order.
func script(ours, fork *tree, signer note.Signer) ([]step, error) {
	var failed error
	must := func(text string, err error) string {
		failed = errors.Join(failed, err)
		return text
	}
	request := func(old int64, proof, checkpoint string) string {
		return fmt.Sprintf("old %d\n%s\n%s", old, proof, checkpoint)
	}
	send := func(old, size int64) string {
		return request(old, must(ours.proof(old, size)), must(ours.checkpoint(size, signer)))
	}
	other := func(name string) note.Signer {
		secret, _, err := note.GenerateKey(nil, name)
		failed = errors.Join(failed, err)
		signer, err := note.NewSigner(secret)
		failed = errors.Join(failed, err)
		return signer
	}
	checkpoint := must(ours.checkpoint(8, signer))
	garbage := checkpoint[:len(checkpoint)-8] + "AAAAAA=\n"
	if strings.HasSuffix(checkpoint, "AAAAAA=\n") {
		return nil, errors.New("no garbage")
	}
	wrong := strings.Repeat(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n", 3)
	many := strings.Repeat(wrong, 22)
	var steps []step
	add := func(status int, what, body, stated string) { steps = append(steps, step{what, body, status, stated}) }
	add(200, "the first checkpoint", send(0, 2), "")
	add(409, "a stale old size", send(1, 2), "2")
	add(200, "the next, with a proof", send(2, 4), "")
	add(200, "the same again", send(4, 4), "")
	add(200, "one entry more", send(4, 5), "")
	add(409, "old 0, to learn the size", send(0, 8), "5")
	add(404, "an origin that is not known", request(0, "", must(ours.checkpoint(1, other("unknown.example/log")))), "")
	add(403, "a key that is not trusted", request(5, must(ours.proof(5, 8)), must(ours.checkpoint(8, other(signer.Name())))), "")
	add(403, "a trusted key's line that is garbage", request(5, must(ours.proof(5, 8)), garbage), "")
	add(422, "a proof of wrong hashes", request(5, wrong, checkpoint), "")
	add(422, "no proof", request(5, "", checkpoint), "")
	add(422, "another history, with its proof", request(5, must(fork.proof(5, 9)), must(fork.checkpoint(9, signer))), "")
	add(400, "an old size beyond the checkpoint", request(9, "", checkpoint), "")
	add(400, "no empty line", "old 5\n"+checkpoint, "")
	add(400, "more than 63 hashes", request(5, many, checkpoint), "")
	add(400, "nothing", "", "")
	add(200, "a large step", send(5, 257), "")
	add(200, "and another", send(257, 600), "")
	return steps, failed
}
