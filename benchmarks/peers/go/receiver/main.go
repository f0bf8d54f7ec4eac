// A receiver in Go: net/http, HMAC, and one INSERT with pgx per request.
//
//	receiver PORT DATABASE_URL SECRET
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

const table = `CREATE TABLE IF NOT EXISTS go_inbox (
	id bigserial PRIMARY KEY,
	event_id text NOT NULL UNIQUE,
	event_type text NOT NULL,
	body bytea NOT NULL,
	received_at timestamptz NOT NULL DEFAULT now())`

const insert = `INSERT INTO go_inbox (event_id, event_type, body) VALUES ($1, $2, $3)
	ON CONFLICT DO NOTHING`

func main() {
	port, url, secret := os.Args[1], os.Args[2], []byte(os.Args[3])
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(url)
	check(err)
	config.MaxConns = 32
	pool, err := pgxpool.NewWithConfig(ctx, config)
	check(err)
	_, err = pool.Exec(ctx, table)
	check(err)

	http.HandleFunc("POST /webhooks", func(answer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil || !signed(secret, request.Header.Get("Stripe-Signature"), body) {
			http.Error(answer, "wrong signature", http.StatusBadRequest)
			return
		}
		var event struct{ ID, Type string }
		if err := json.Unmarshal(body, &event); err != nil {
			http.Error(answer, "not JSON", http.StatusBadRequest)
			return
		}
		_, err = pool.Exec(request.Context(), insert, event.ID, event.Type, body)
		if err != nil {
			http.Error(answer, "not stored", http.StatusServiceUnavailable)
			return
		}
		answer.Header().Set("Content-Type", "application/json")
		io.WriteString(answer, `{"received":true}`)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, nil))
}

func signed(secret []byte, header string, body []byte) bool {
	moment, signature, found := strings.Cut(strings.TrimPrefix(header, "t="), ",v1=")
	if !found {
		return false
	}
	given, err := hex.DecodeString(signature)
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, secret)
	io.WriteString(mac, moment+".")
	mac.Write(body)
	return hmac.Equal(mac.Sum(nil), given)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
