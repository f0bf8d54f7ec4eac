// River as a forwarder: a job holds the key and the payload, its worker waits for Kafka.
//
//	river prepare DATABASE_URL
//	river forward DATABASE_URL KAFKA TOPIC EVENTS
//
// The second prints how many a second were completed, and the µs of CPU for each. All of them count: they are completed by
// the thousand, and a compiled program has nothing to warm up.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/twmb/franz-go/pkg/kgo"
)

type Event struct {
	ID      string `json:"id"`
	Key     string `json:"key"`
	Payload string `json:"payload"`
}

func (Event) Kind() string { return "event" }

type Forwarder struct {
	river.WorkerDefaults[Event]
	kafka *kgo.Client
}

func (forwarder *Forwarder) Work(ctx context.Context, job *river.Job[Event]) error {
	return forwarder.kafka.ProduceSync(ctx, &kgo.Record{
		Key:     []byte(job.Args.Key),
		Value:   []byte(job.Args.Payload),
		Headers: []kgo.RecordHeader{{Key: "id", Value: []byte(job.Args.ID)}},
	}).FirstErr()
}

func main() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Args[2])
	check(err)
	driver := riverpgxv5.New(pool)
	if os.Args[1] == "prepare" {
		migrator, err := rivermigrate.New(driver, nil)
		check(err)
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
		check(err)
		return
	}
	events, err := strconv.Atoi(os.Args[5])
	check(err)

	kafka, err := kgo.NewClient(
		kgo.SeedBrokers(os.Args[3]),
		kgo.DefaultProduceTopic(os.Args[4]),
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotent, too, by default
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProducerLinger(time.Millisecond),
	)
	check(err)
	workers := river.NewWorkers()
	river.AddWorker(workers, &Forwarder{kafka: kafka})
	// The settings of `river bench`, which were chosen for the most jobs a second.
	client, err := river.NewClient(driver, &river.Config{
		FetchCooldown:     2 * time.Millisecond,
		FetchPollInterval: 20 * time.Millisecond,
		Logger:            slog.New(slog.NewTextHandler(io.Discard, nil)),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2_000}},
		Workers:           workers,
	})
	check(err)
	completed, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: events,
		Kinds:    []river.EventKind{river.EventKindJobCompleted},
	})
	defer cancel()
	start := time.Now()
	check(client.Start(ctx))
	for range events {
		<-completed
	}
	rate := float64(events) / time.Since(start).Seconds()
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	fmt.Println(rate, float64(cpu.Microseconds())/float64(events))
	check(client.Stop(ctx))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
