import com.sun.management.OperatingSystemMXBean;
import io.debezium.embedded.Connect;
import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.RecordChangeEvent;
import io.debezium.engine.format.ChangeEventFormat;
import java.lang.management.ManagementFactory;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.DriverManager;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;

/**
 * Debezium as a forwarder: its engine reads an outbox table by logical replication, the outbox
 * event router makes records, and each batch is acknowledged by Kafka before it is marked.
 *
 * <pre>
 * Forward prepare DATABASE_URL
 * Forward forward DATABASE_URL KAFKA TOPIC EVENTS
 * </pre>
 *
 * The first makes the table, the publication and the slot, so that what is stored from then on is
 * read by the second, which prints how many a second were acknowledged after the first fifth,
 * and the µs of CPU for each.
 */
public class Forward {
  public static void main(String[] arguments) throws Exception {
    URI database = URI.create(arguments[1]);
    if (arguments[0].equals("prepare")) {
      prepare(database);
      return;
    }
    int events = Integer.parseInt(arguments[4]);
    Batches batches = new Batches(arguments[2], arguments[3], events);
    Path offsets = Files.createTempFile("debezium", ".offsets");
    DebeziumEngine<RecordChangeEvent<SourceRecord>> engine =
        DebeziumEngine.create(ChangeEventFormat.of(Connect.class))
            .using(settings(database, offsets))
            .using((success, message, error) -> {
              if (!success) {
                System.err.println(message + ": " + error);
                System.exit(1);
              }
            })
            .notifying(batches)
            .build();
    var thread = Executors.newSingleThreadExecutor();
    thread.execute(engine);
    batches.finished.await();
    engine.close();
    thread.shutdown();
    Files.delete(offsets);
  }

  static void prepare(URI database) throws Exception {
    String jdbc = "jdbc:postgresql://" + database.getAuthority().split("@")[1] + database.getPath();
    String[] user = database.getUserInfo().split(":");
    try (var connection = DriverManager.getConnection(jdbc, user[0], user[1]);
        var statement = connection.createStatement()) {
      statement.execute(
          "CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(),"
              + " aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL,"
              + " payload bytea NOT NULL)");
      statement.execute(
          "CREATE PUBLICATION dbz_publication FOR TABLE outbox WITH (publish = 'insert')");
      statement.execute("SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')");
    }
  }

  static Properties settings(URI database, Path offsets) {
    String[] user = database.getUserInfo().split(":");
    Properties settings = new Properties();
    settings.putAll(Map.ofEntries(
        Map.entry("name", "outbox"),
        Map.entry("connector.class", "io.debezium.connector.postgresql.PostgresConnector"),
        Map.entry("database.hostname", database.getHost()),
        Map.entry("database.port", String.valueOf(database.getPort())),
        Map.entry("database.user", user[0]),
        Map.entry("database.password", user[1]),
        Map.entry("database.dbname", database.getPath().substring(1)),
        Map.entry("topic.prefix", "benchmark"),
        Map.entry("table.include.list", "public.outbox"),
        Map.entry("plugin.name", "pgoutput"),
        Map.entry("slot.name", "debezium"),
        Map.entry("publication.autocreate.mode", "disabled"),
        Map.entry("snapshot.mode", "no_data"),
        Map.entry("offset.storage.file.filename", offsets.toString()),
        Map.entry("record.processing.threads", "AVAILABLE_CORES"),
        Map.entry("max.batch.size", "4096"),
        Map.entry("max.queue.size", "16384"),
        Map.entry("poll.interval.ms", "10"),
        Map.entry("tombstones.on.delete", "false"),
        Map.entry("transforms", "outbox"),
        Map.entry("transforms.outbox.type", "io.debezium.transforms.outbox.EventRouter")));
    return settings;
  }

  /** Sends batch after batch. */
  static class Batches implements DebeziumEngine.ChangeConsumer<RecordChangeEvent<SourceRecord>> {
    private static final OperatingSystemMXBean CLOCK =
        (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    final CountDownLatch finished = new CountDownLatch(1);
    private final KafkaProducer<byte[], byte[]> producer;
    private final String topic;
    private final int events;
    private int acknowledged = 0;
    private int counted = 0;
    private long start = 0;
    private long cpu = 0;

    Batches(String kafka, String topic, int events) {
      this.topic = topic;
      this.events = events;
      Map<String, Object> settings =
          Map.of(
              "bootstrap.servers", kafka,
              "acks", "all",
              "enable.idempotence", true,
              "compression.type", "lz4",
              "linger.ms", 1,
              "batch.size", 262144);
      producer =
          new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    @Override
    public void handleBatch(
        List<RecordChangeEvent<SourceRecord>> batch,
        DebeziumEngine.RecordCommitter<RecordChangeEvent<SourceRecord>> committer)
        throws InterruptedException {
      CountDownLatch reports = new CountDownLatch(batch.size());
      for (var event : batch) {
        producer.send(
            record(event.record()),
            (metadata, error) -> {
              if (error != null) {
                error.printStackTrace();
                System.exit(1);
              }
              reports.countDown();
            });
      }
      reports.await();
      for (var event : batch) {
        committer.markProcessed(event);
      }
      committer.markBatchFinished();
      count(batch.size());
    }

    private ProducerRecord<byte[], byte[]> record(SourceRecord from) {
      byte[] key = ((String) from.key()).getBytes();
      Object payload = from.value();
      byte[] value = payload instanceof ByteBuffer buffer ? buffer.array() : (byte[]) payload;
      var to = new ProducerRecord<>(topic, key, value);
      for (Header header : from.headers()) {
        to.headers().add(header.key(), header.value().toString().getBytes());
      }
      return to;
    }

    private void count(int size) {
      acknowledged += size;
      if (start == 0 && acknowledged >= events / 5) {
        start = System.nanoTime();
        cpu = CLOCK.getProcessCpuTime();
        counted = acknowledged;
      }
      if (acknowledged == events) {
        double measured = events - counted;
        System.out.println(
            measured / ((System.nanoTime() - start) / 1e9)
                + " "
                + (CLOCK.getProcessCpuTime() - cpu) / 1e3 / measured);
        finished.countDown();
      }
    }
  }
}
